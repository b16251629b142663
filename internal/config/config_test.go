// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"panal/internal/config"
	"panal/internal/plat"
)

func good() config.Server {
	return config.Server{
		Data: "/d", Listen: "127.0.0.1:8600", Python: "/usr/bin/python3", LogLevel: "info", LogFormat: "text",
		LogTTL: time.Hour, LogCeilingMB: 1, EnvironmentMB: 1, SpoolMB: 1, SleepAfter: time.Minute, ScaleWindow: time.Minute,
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		field string // "" is valid
		set   func(*config.Server)
	}{
		{"", func(*config.Server) {}},
		{"", func(s *config.Server) { s.Listen = "localhost:0" }},
		{"", func(s *config.Server) { s.Listen = "[::1]:80" }},
		{"", func(s *config.Server) { s.Listen, s.Insecure = "0.0.0.0:80", true }},
		{"listen", func(s *config.Server) { s.Listen = "0.0.0.0:80" }},
		{"listen", func(s *config.Server) { s.Listen = ":80" }},
		{"listen", func(s *config.Server) { s.Listen = "192.0.2.1:80" }},
		{"listen", func(s *config.Server) { s.Listen = "8600" }},
		{"public-url", func(s *config.Server) { s.PublicURL = "panal.example" }},
		{"public-url", func(s *config.Server) { s.PublicURL = "https://panal.example/sub" }},
		{"public-url", func(s *config.Server) { s.PublicURL = "https://panal.example/?a=b" }},
		{"agent-url", func(s *config.Server) { s.AgentURL = "http://a:b@panal.example" }},
		{"", func(s *config.Server) { s.Trusted = "10.0.0.0/8, ::1" }},
		{"trusted-proxies", func(s *config.Server) { s.Trusted = "10.0.0.0/8,proxy.example" }},
		{"trusted-proxies", func(s *config.Server) { s.Trusted = "0.0.0.0/0" }},
		{"database", func(s *config.Server) { s.Database = "mysql://x" }},
		{"database", func(s *config.Server) { s.Database = "redacted" }},
		{"", func(s *config.Server) { s.Blob = "dir:/srv/panal" }},
		{"blob", func(s *config.Server) { s.Blob = "s3://bucket" }}, // without credentials
		{"s3-secret-key", func(s *config.Server) { s.Blob, s.S3AccessKey, s.S3SecretKey = "s3://bucket", "a", "redacted" }},
		{"", func(s *config.Server) { s.Blob, s.S3AccessKey, s.S3SecretKey = "s3://bucket", "a", "b" }},
		{"", func(s *config.Server) { s.Admin = "[::1]:6060" }},
		{"admin-listen", func(s *config.Server) { s.Admin = "0.0.0.0:6060" }},
		{"admin-listen", func(s *config.Server) { s.Admin = "localhost" }},
		{"drain", func(s *config.Server) { s.Drain = -1 }},
		{"idle-timeout", func(s *config.Server) { s.IdleTimeout = -1 }},
		{"python", func(s *config.Server) { s.Python = "python3" }},
		{"log-ttl", func(s *config.Server) { s.LogTTL = time.Minute }},
		{"collect-grace", func(s *config.Server) { s.CollectGrace = time.Millisecond }},
		{"audit-ttl", func(s *config.Server) { s.AuditTTL = time.Hour }},
		{"", func(s *config.Server) { s.PageSize = 1000 }},
		{"max-page-size", func(s *config.Server) { s.PageSize = 999 }},
		{"max-header-bytes", func(s *config.Server) { s.HeaderBytes = 100 }},
		{"max-metadata-bytes", func(s *config.Server) { s.HeaderBytes, s.MetadataBytes = 8<<10, 8<<10 }},
		{"max-metadata-key-bytes", func(s *config.Server) { s.MetadataKey = -1 }},
		{"max-metadata-value-bytes", func(s *config.Server) { s.MetadataValue = 1 }},
		{"max-items-per-call", func(s *config.Server) { s.ItemsPerCall = 1 << 20 }},
		{"", func(s *config.Server) { s.Rate, s.RateBurst = 0.5, 10 }},
		{"rate-limit", func(s *config.Server) { s.Rate = -1 }},
		{"rate-limit", func(s *config.Server) { s.Rate = math.NaN() }},
		{"rate-burst", func(s *config.Server) { s.RateBurst = -1 }},
		{"", func(s *config.Server) { s.ScaleWindow, s.SleepAfter = 3*time.Second, time.Second }},
		{"scale-window", func(s *config.Server) { s.ScaleWindow = time.Second }},
		{"sleep-after", func(s *config.Server) { s.SleepAfter = time.Millisecond }},
		{"spool-mb", func(s *config.Server) { s.SpoolMB = -1 }},
		{"access-log-sample", func(s *config.Server) { s.AccessSample = 1.5 }},
		{"access-log-mb", func(s *config.Server) { s.AccessLog = "a.log" }},
		{"outage-grace", func(s *config.Server) { s.OutageGrace = time.Second }},
		{"max-connections", func(s *config.Server) { s.Connections = 1 }},
		{"infer-token-rate", func(s *config.Server) { s.TokenRate = 1e-9 }},
		{"infer-organization-rate", func(s *config.Server) { s.OrgRate = math.Inf(1) }},
		{"infer-service-concurrency", func(s *config.Server) { s.ServiceCalls = -1 }},
		{"infer-concurrency", func(s *config.Server) { s.Calls = 1 }},
		{"log-ceiling-mb", func(s *config.Server) { s.LogCeilingMB = 0 }},
	} {
		s := good()
		c.set(&s)
		err := s.Validate()
		if c.field == "" {
			if err != nil {
				t.Errorf("%+v: %v", s, err)
			}
			continue
		}
		if !errors.Is(err, plat.ErrInvalid) || !strings.HasPrefix(err.Error(), c.field+":") {
			t.Errorf("%s: %v", c.field, err)
		}
	}
}

func TestPrintRedacts(t *testing.T) {
	s := good()
	s.Database = "postgres://panal:hunter2@db/panal"
	s.Blob, s.S3AccessKey, s.S3SecretKey, s.S3Session = "s3://key:hunter2@bucket", "key", "hunter2", "hunter2"
	s.PipIndexURL = "https://me:hunter2@index.example/simple"
	var out bytes.Buffer
	if err := s.Print(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hunter2") || !strings.Contains(out.String(), "database: redacted") || !strings.Contains(out.String(), "s3-secret-key: redacted") ||
		!strings.Contains(out.String(), "https://me:redacted@index.example/simple") || !strings.Contains(out.String(), "log-ttl: 1h0m0s") {
		t.Errorf("printed:\n%s", out.String())
	}
}
