// SPDX-License-Identifier: Apache-2.0

// Package config is Panal's one configuration struct. Precedence: flags, then
// PANAL_* environment variables, then the file named by --config, then defaults.
package config

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"panal/internal/plat"
	"panal/internal/x/httpx"
)

// Server is the configuration of panal serve. The tags are what the command line,
// the environment and the configuration file read; help is the reference.
type Server struct {
	Data          string            `help:"Data directory." default:"./panal-data" env:"PANAL_DATA" type:"path"`
	Listen        string            `help:"Address to listen on. A non-loopback one needs TLS in front, or --insecure." default:"127.0.0.1:8600" env:"PANAL_LISTEN"`
	Insecure      bool              `help:"Allow a non-loopback address without TLS." env:"PANAL_INSECURE"`
	TLSListen     string            `name:"tls-listen" help:"Address that speaks TLS (HTTP/1.1 and HTTP/2), for the world; --listen stays for workloads and this machine." env:"PANAL_TLS_LISTEN"`
	TLSCert       string            `name:"tls-cert" help:"PEM file of its certificate and chain, read again when it changes." env:"PANAL_TLS_CERT"`
	TLSKey        string            `name:"tls-key" help:"PEM file of the certificate's key." env:"PANAL_TLS_KEY"`
	PublicURL     string            `name:"public-url" help:"Base of absolute URLs in answers; default: the request's Host." env:"PANAL_PUBLIC_URL"`
	Trusted       string            `name:"trusted-proxies" help:"CIDRs or addresses of proxies in front, by comma: X-Forwarded-For counts only from these. IP rules need it behind a proxy." env:"PANAL_TRUSTED_PROXIES"`
	AgentURL      string            `name:"agent-url" help:"Base URL at which workloads reach the API; default: the listen address." env:"PANAL_AGENT_URL"`
	Database      string            `help:"postgres://… instead of the embedded SQLite files." env:"PANAL_DATABASE" secret:"true"`
	KeyFile       string            `name:"key-file" help:"File of the keys that seal secrets and sign URLs; made on first start. Default: secret.key in the data directory." env:"PANAL_KEY_FILE"`
	Blob          string            `help:"Where files are kept: dir:/PATH, or s3://BUCKET?endpoint=…&region=…&prefix=…&public_endpoint=…&path_style=true&presign=true (false: clients don't reach the bucket, Panal serves the bytes); empty: in the data directory." env:"PANAL_BLOB"`
	UploadQueue   string            `name:"upload-queue" help:"URL of an SQS queue to which the bucket of --blob sends the events of objects created under its incoming/, so that uploads by its signed URLs are seen at once; without events they are looked for every second." env:"PANAL_UPLOAD_QUEUE"`
	UploadSecret  string            `name:"upload-secret" help:"What the storage shows when it posts such events to /feeds/uploads/s3, as Authorization: Bearer; best set in the environment." env:"PANAL_UPLOAD_SECRET" secret:"true"`
	LinkEndpoints []string          `name:"link-endpoint" help:"Storage whose buckets channels may be linked to, as http(s)://HOST[:PORT]; may be repeated. None: no channel can be linked." env:"PANAL_LINK_ENDPOINTS"`
	S3AccessKey   string            `name:"s3-access-key" help:"Access key of the bucket." env:"PANAL_S3_ACCESS_KEY,AWS_ACCESS_KEY_ID"`
	S3SecretKey   string            `name:"s3-secret-key" help:"Its secret; best set in the environment." env:"PANAL_S3_SECRET_KEY,AWS_SECRET_ACCESS_KEY" secret:"true"`
	S3Session     string            `name:"s3-session-token" help:"Its session token, if it has one." env:"PANAL_S3_SESSION_TOKEN,AWS_SESSION_TOKEN" secret:"true"`
	LogLevel      string            `name:"log-level" help:"debug, info, warn or error." default:"info" enum:"debug,info,warn,error" env:"PANAL_LOG_LEVEL"`
	LogFormat     string            `name:"log-format" help:"text or json." default:"text" enum:"text,json" env:"PANAL_LOG_FORMAT"`
	Admin         string            `name:"admin-listen" help:"Loopback address for pprof; empty: none." env:"PANAL_ADMIN_LISTEN"`
	Drain         time.Duration     `help:"How long a shutdown waits for requests in flight." default:"30s" env:"PANAL_DRAIN"`
	LameDuck      time.Duration     `name:"lame-duck" help:"How long a server whose listening sockets are held by its starter (panal supervise, systemd) goes on as usual once it is told to end, with Connection: close on its answers, so that no kept connection is closed under a request." default:"2s" env:"PANAL_LAME_DUCK"`
	StreamGrace   time.Duration     `name:"stream-grace" help:"How long streams, WebSockets and other calls that an instance has go on once their service is stopped, their instance replaced, or their server has handed over to the next one. Then a stream of events ends with an event, a WebSocket with a close frame, and what else is under way is broken off." default:"10m" env:"PANAL_STREAM_GRACE"`
	LockWait      time.Duration     `name:"lock-wait" help:"How long to wait for another server to give the data directory up; panal supervise sets it for the server that takes over." default:"0s" env:"PANAL_LOCK_WAIT"`
	Python        string            `help:"Interpreter of the built-in profiles (abeja-inc/*)." default:"/usr/bin/python3" env:"PANAL_PYTHON"`
	Profiles      map[string]string `help:"Further images: NAME=INTERPRETER;…, e.g. custom/*=/opt/py/bin/python3." env:"PANAL_PROFILES"`
	PipIndexURL   string            `name:"pip-index-url" help:"Package index for requirements; empty: pip's own." env:"PANAL_PIP_INDEX_URL"`
	PipFindLinks  string            `name:"pip-find-links" help:"Directory of wheels; with --pip-no-index the only source." env:"PANAL_PIP_FIND_LINKS"`
	PipNoIndex    bool              `name:"pip-no-index" help:"Install requirements from the wheel directory only." env:"PANAL_PIP_NO_INDEX"`
	GitPrivate    bool              `name:"git-allow-private" help:"Let versions come from git repositories over http and in the private network, this machine included." env:"PANAL_GIT_ALLOW_PRIVATE"`
	CPU           float64           `name:"capacity-cpu" help:"vCPUs for workloads; 0: detected." env:"PANAL_CAPACITY_CPU"`
	MemoryMB      int64             `name:"capacity-memory-mb" help:"Memory for workloads in MiB; 0: detected." env:"PANAL_CAPACITY_MEMORY_MB"`
	LogTTL        time.Duration     `name:"log-ttl" help:"How long log lines of workloads stay." default:"720h" env:"PANAL_LOG_TTL"`
	LogCeilingMB  int64             `name:"log-ceiling-mb" help:"Disk that log lines may take, in MiB; at it, ingest answers 503 and agents keep their lines." default:"10240" env:"PANAL_LOG_CEILING_MB"`
	EnvironmentMB int64             `name:"environments-mb" help:"Disk that Python environments may take, in MiB." default:"20480" env:"PANAL_ENVIRONMENTS_MB"`
	HoldTimeout   time.Duration     `name:"hold-timeout" help:"How long a request waits for an instance to become ready." default:"30s" env:"PANAL_HOLD_TIMEOUT"`
	AuditTTL      time.Duration     `name:"audit-ttl" help:"How long the audit of mutating calls stays." default:"9600h" env:"PANAL_AUDIT_TTL"`
	CollectGrace  time.Duration     `name:"collect-grace" help:"How old an object must be that no file refers to before it is deleted. It must be longer than the end of an upload may take: minutes, not seconds, while anybody uploads." default:"24h" env:"PANAL_COLLECT_GRACE"`
	HeaderBytes   int               `name:"max-header-bytes" help:"Bytes of a request's headers; more is 431." default:"65536" env:"PANAL_MAX_HEADER_BYTES"`
	MetadataBytes int               `name:"max-metadata-bytes" help:"Bytes of a file's metadata, names and values as sent; more is 400." default:"16384" env:"PANAL_MAX_METADATA_BYTES"`
	MetadataKey   int               `name:"max-metadata-key-bytes" help:"Bytes of one metadata name, without x-abeja-meta-." default:"512" env:"PANAL_MAX_METADATA_KEY_BYTES"`
	MetadataValue int               `name:"max-metadata-value-bytes" help:"Bytes of one metadata value." default:"2048" env:"PANAL_MAX_METADATA_VALUE_BYTES"`
	ItemsPerCall  int               `name:"max-items-per-call" help:"Dataset items that one call creates or changes. With less than 500 panal dataset import is refused, and clients that send as many." default:"500" env:"PANAL_MAX_ITEMS_PER_CALL"`
	PageSize      int               `name:"max-page-size" help:"Entries of one page; what asks for more gets so many. At least 1000." default:"1000" env:"PANAL_MAX_PAGE_SIZE"`
	Rate          float64           `name:"rate-limit" help:"Calls a second that one token may make; more is 429 with Retry-After. Inference and log lines are not counted. 0: no limit." env:"PANAL_RATE_LIMIT"`
	RateBurst     int               `name:"rate-burst" help:"Calls that a token which was quiet may make at once; 0: two seconds' worth." env:"PANAL_RATE_BURST"`
	Calls         int               `name:"infer-concurrency" help:"Inference calls under way in all. No organization gets more of them than are then still free: half at most." default:"10000" env:"PANAL_INFER_CONCURRENCY"`
	TokenRate     float64           `name:"infer-token-rate" help:"Inference calls a second of one token; more is 429. 0: no limit." env:"PANAL_INFER_TOKEN_RATE"`
	TokenCalls    int               `name:"infer-token-concurrency" help:"Inference calls of one token under way. 0: no limit." env:"PANAL_INFER_TOKEN_CONCURRENCY"`
	OrgRate       float64           `name:"infer-organization-rate" help:"Inference calls a second of one organization. 0: no limit." env:"PANAL_INFER_ORGANIZATION_RATE"`
	OrgCalls      int               `name:"infer-organization-concurrency" help:"Inference calls of one organization under way. 0: no limit." env:"PANAL_INFER_ORGANIZATION_CONCURRENCY"`
	ServiceRate   float64           `name:"infer-service-rate" help:"Inference calls a second of one service. 0: no limit." env:"PANAL_INFER_SERVICE_RATE"`
	ServiceCalls  int               `name:"infer-service-concurrency" help:"Inference calls of one service under way, those that wait for an instance included. 0: no limit." env:"PANAL_INFER_SERVICE_CONCURRENCY"`
	Connections   int               `name:"max-connections" help:"Connections of callers, in all; more get 503." default:"20000" env:"PANAL_MAX_CONNECTIONS"`
	AddrConns     int               `name:"max-connections-per-address" help:"Connections from one IPv4 address or IPv6 /64; --trusted-proxies are not counted." default:"2000" env:"PANAL_MAX_CONNECTIONS_PER_ADDRESS"`
	OutageGrace   time.Duration     `name:"outage-grace" help:"How long tokens, organizations and IP rules that the database has confirmed go on while it does not answer, counted from its last word on each." default:"30m" env:"PANAL_OUTAGE_GRACE"`
	AccessLog     string            `name:"access-log" help:"File that gets a line of JSON per request, rotated by size with four older ones kept; empty: none." env:"PANAL_ACCESS_LOG"`
	AccessSample  float64           `name:"access-log-sample" help:"Part of the requests in it, 0 to 1; those answered 5xx are always there." default:"1" env:"PANAL_ACCESS_LOG_SAMPLE"`
	AccessLogMB   int64             `name:"access-log-mb" help:"Size at which it is rotated, in MiB." default:"100" env:"PANAL_ACCESS_LOG_MB"`
	IdleTimeout   time.Duration     `name:"idle-timeout" help:"How long an inference stream may make no progress." default:"30s" env:"PANAL_IDLE_TIMEOUT"`
	SlowStart     time.Duration     `name:"slow-start" help:"How long a new instance that comes beside others of its service gets less than its share of the requests: a tenth at first. 0s: never." default:"10s" env:"PANAL_SLOW_START"`
	SleepAfter    time.Duration     `name:"sleep-after" help:"How long a service with min_instance_number 0 goes without a request before it sleeps, if it sets no idle_timeout." default:"10m" env:"PANAL_SLEEP_AFTER"`
	ScaleWindow   time.Duration     `name:"scale-window" help:"Over how long load is averaged to scale services up, and for how long it must have fallen to scale them down." default:"1m" env:"PANAL_SCALE_WINDOW"`
	SpoolMB       int64             `name:"spool-mb" help:"Disk that bodies of requests which wait for an instance may take, in MiB. No organization gets more of it than is then still free: half at most." default:"1024" env:"PANAL_SPOOL_MB"`
	TunnelIdle    time.Duration     `name:"tunnel-idle-timeout" help:"How long a WebSocket to a command may be silent in both directions." default:"5m" env:"PANAL_TUNNEL_IDLE_TIMEOUT"`
}

// Validate checks everything that can be checked before anything starts.
func (c *Server) Validate() error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil || port == "" {
		return plat.InvalidField("listen", "%q is not HOST:PORT", c.Listen)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && !c.Insecure {
		return plat.InvalidField("listen", "%s is not a loopback address and does not speak TLS; use --tls-listen for the world, or put a TLS proxy in front and pass --insecure", c.Listen)
	}
	for name, v := range map[string]string{"public-url": c.PublicURL, "agent-url": c.AgentURL} {
		if u, err := url.Parse(v); v != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.User != nil) {
			return plat.InvalidField(name, "%q is not http(s)://HOST[:PORT]", v)
		}
	}
	for _, v := range c.LinkEndpoints {
		if u, err := url.Parse(v); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.Path != "" || u.RawQuery != "" || u.User != nil {
			return plat.InvalidField("link-endpoint", "%q is not http(s)://HOST[:PORT]", v)
		}
	}
	if set := c.TLSListen != ""; set != (c.TLSCert != "") || set != (c.TLSKey != "") {
		return plat.InvalidField("tls-listen", "goes together with tls-cert and tls-key")
	}
	if _, port, err := net.SplitHostPort(c.TLSListen); c.TLSListen != "" && (err != nil || port == "") {
		return plat.InvalidField("tls-listen", "%q is not HOST:PORT", c.TLSListen)
	}
	if _, err := c.Proxies(); err != nil {
		return err
	}
	if c.Database == redacted {
		return plat.InvalidField("database", "is %q, as config print writes it; put the URL there, or in PANAL_DATABASE", redacted)
	}
	if c.Database != "" && !strings.HasPrefix(c.Database, "postgres://") && !strings.HasPrefix(c.Database, "postgresql://") {
		return plat.InvalidField("database", "must start with postgres://")
	}
	if err := c.validateBlob(); err != nil {
		return err
	}
	if c.Admin != "" {
		host, _, err := net.SplitHostPort(c.Admin)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return plat.InvalidField("admin-listen", "%q must be a loopback IP and port: the profiler shows memory", c.Admin)
		}
	}
	for name, d := range map[string]time.Duration{"drain": c.Drain, "lame-duck": c.LameDuck, "stream-grace": c.StreamGrace, "lock-wait": c.LockWait, "hold-timeout": c.HoldTimeout, "idle-timeout": c.IdleTimeout, "slow-start": c.SlowStart, "tunnel-idle-timeout": c.TunnelIdle} {
		if d < 0 {
			return plat.InvalidField(name, "can't be negative")
		}
	}
	if !filepath.IsAbs(c.Python) {
		return plat.InvalidField("python", "%q must be an absolute path", c.Python)
	}
	for name, v := range map[string]int64{"log-ceiling-mb": c.LogCeilingMB, "environments-mb": c.EnvironmentMB, "spool-mb": c.SpoolMB} {
		if v <= 0 {
			return plat.InvalidField(name, "must be more than 0")
		}
	}
	if err := c.validateLimits(); err != nil {
		return err
	}
	if c.CollectGrace < time.Second && c.CollectGrace != 0 {
		return plat.InvalidField("collect-grace", "must be at least 1s")
	}
	if c.StreamGrace < time.Second && c.StreamGrace != 0 {
		return plat.InvalidField("stream-grace", "must be at least 1s")
	}
	if c.ScaleWindow < 3*time.Second || c.ScaleWindow > time.Hour {
		return plat.InvalidField("scale-window", "must be 3s to 1h")
	}
	if c.SleepAfter < time.Second {
		return plat.InvalidField("sleep-after", "must be at least 1s")
	}
	if c.LogTTL < time.Hour {
		return plat.InvalidField("log-ttl", "must be at least 1h")
	}
	if c.CPU < 0 || c.MemoryMB < 0 {
		return plat.InvalidField("capacity-cpu", "capacities can't be negative")
	}
	return nil
}

// Proxies returns the proxies in front of the server, whose X-Forwarded-For counts.
func (c *Server) Proxies() ([]netip.Prefix, error) {
	list, bad := httpx.ParsePrefixes(c.Trusted)
	if bad != "" {
		return nil, plat.InvalidField("trusted-proxies", "%q is not a CIDR or an address", bad)
	}
	for _, p := range list {
		if p.Bits() == 0 {
			return nil, plat.InvalidField("trusted-proxies", "%s trusts everybody, who could then write any address; name the proxies", p)
		}
	}
	return list, nil
}

// validateLimits checks the limits of calls; 0 is the default.
func (c *Server) validateLimits() error {
	for _, l := range []struct {
		name        string
		v, min, max int
	}{
		{"max-header-bytes", c.HeaderBytes, 4 << 10, 16 << 20},
		{"max-metadata-bytes", c.MetadataBytes, 1 << 10, 8 << 20},
		{"max-metadata-key-bytes", c.MetadataKey, 16, 64 << 10},
		{"max-metadata-value-bytes", c.MetadataValue, 16, 1 << 20},
		{"max-items-per-call", c.ItemsPerCall, 1, 100_000},
		{"max-page-size", c.PageSize, 1000, 100_000}, // clients ask for 1000 (data.md §6)
		{"rate-burst", c.RateBurst, 0, 1_000_000},
		{"max-connections", c.Connections, 10, 10_000_000},
		{"max-connections-per-address", c.AddrConns, 1, 10_000_000},
		{"infer-concurrency", c.Calls, 2, 10_000_000},
		{"infer-token-concurrency", c.TokenCalls, 0, 10_000_000},
		{"infer-organization-concurrency", c.OrgCalls, 0, 10_000_000},
		{"infer-service-concurrency", c.ServiceCalls, 0, 10_000_000},
	} {
		if l.v != 0 && l.v < l.min || l.v < 0 || l.v > l.max {
			return plat.InvalidField(l.name, "is %d; it must be %d to %d", l.v, l.min, l.max)
		}
	}
	if c.MetadataBytes >= c.HeaderBytes && c.HeaderBytes > 0 {
		return plat.InvalidField("max-metadata-bytes", "is %d, and metadata comes as headers: it must be less than --max-header-bytes (%d)", c.MetadataBytes, c.HeaderBytes)
	}
	for name, v := range map[string]float64{"rate-limit": c.Rate, "infer-token-rate": c.TokenRate, "infer-organization-rate": c.OrgRate, "infer-service-rate": c.ServiceRate} {
		if !(v == 0 || v >= 1e-3 && v <= 1e6) {
			return plat.InvalidField(name, "must be 0 (no limit) or 0.001 to 1000000")
		}
	}
	if !(c.AccessSample >= 0 && c.AccessSample <= 1) {
		return plat.InvalidField("access-log-sample", "must be 0 to 1")
	}
	if c.AccessLog != "" && (c.AccessLogMB < 1 || c.AccessLogMB > 1<<20) {
		return plat.InvalidField("access-log-mb", "must be 1 to 1048576")
	}
	if c.OutageGrace != 0 && (c.OutageGrace < 10*time.Second || c.OutageGrace > 7*24*time.Hour) {
		return plat.InvalidField("outage-grace", "must be 10s to 168h")
	}
	if c.AuditTTL < 24*time.Hour && c.AuditTTL != 0 {
		return plat.InvalidField("audit-ttl", "must be at least 24h")
	}
	return nil
}

const redacted = "redacted"

// withoutPassword hides the password of a URL.
func withoutPassword(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	if _, has := u.User.Password(); !has {
		return s
	}
	u.User = url.UserPassword(u.User.Username(), redacted)
	return u.String()
}

// Print writes the configuration as YAML that --config reads back, with secrets
// replaced by "redacted".
func (c *Server) Print(w io.Writer) error {
	node := &yaml.Node{Kind: yaml.MappingNode}
	v, t := reflect.ValueOf(*c), reflect.TypeFor[Server]()
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("name")
		if key == "" {
			key = strings.ToLower(f.Name)
		}
		val := v.Field(i).Interface()
		if d, ok := val.(time.Duration); ok {
			val = d.String()
		}
		if f.Tag.Get("secret") == "true" && v.Field(i).String() != "" {
			val = redacted
		}
		if text, ok := val.(string); ok {
			val = withoutPassword(text)
		}
		kn, vn := &yaml.Node{}, &yaml.Node{}
		if err := kn.Encode(key); err != nil {
			return fmt.Errorf("print %s: %w", key, err)
		}
		if err := vn.Encode(val); err != nil {
			return fmt.Errorf("print %s: %w", key, err)
		}
		kn.HeadComment = f.Tag.Get("help")
		node.Content = append(node.Content, kn, vn)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(node); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return enc.Close()
}
