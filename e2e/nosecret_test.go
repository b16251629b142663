// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"panal/internal/client"
	"panal/internal/gitsource/gittest"
)

// auditText is every audit row of the client's organization.
func auditText(t *testing.T, api *client.Client) []byte {
	t.Helper()
	var all bytes.Buffer
	enc := json.NewEncoder(&all)
	enc.SetEscapeHTML(false)
	if err := api.Audit(t.Context(), client.AuditQuery{}, func(r client.AuditRow) error { return enc.Encode(r) }); err != nil {
		t.Fatal(err)
	}
	return all.Bytes()
}

// unpacked is content with every zstd frame in it (segments of the journal) in clear.
func unpacked(content []byte) []byte {
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	out := content
	for rest := content; ; {
		_, after, ok := bytes.Cut(rest, magic)
		if !ok {
			return out
		}
		z, err := zstd.NewReader(io.MultiReader(bytes.NewReader(magic), bytes.NewReader(after)), zstd.WithDecoderConcurrency(1))
		if err == nil {
			clear, _ := io.ReadAll(io.LimitReader(z, 64<<20)) // what follows the frame is no frame
			out = append(bytes.Clone(out), clear...)
			z.Close()
		}
		rest = after
	}
}

// dumped is the data of a PostgreSQL database; schema may be empty.
func dumped(database string) ([]byte, error) {
	u, err := url.Parse(database)
	if err != nil {
		return nil, err
	}
	args := []string{"--data-only"}
	if schema := u.Query().Get("search_path"); schema != "" { // libpq knows no such parameter
		args = append(args, "--schema", schema)
	}
	u.RawQuery = "sslmode=disable"
	out, err := exec.Command("pg_dump", append(args, u.String())...).Output()
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("pg_dump of %s says nothing", u.Redacted())
	}
	return out, err
}

// TestNoSecretAnywhere: secrets and tokens of every kind are made, and used rightly and
// wrongly: in the path, the query, headers and bodies. None is then in any file or
// object, in the database, in an audit row, in what the server writes, or in the body
// of an answer that refuses.
func TestNoSecretAnywhere(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		_, where, bucket := startBucket(t) // for the link
		noSecret(t, where, bucket, "", startPlatform(t, "--log-level", "debug", "--git-allow-private", "--access-log", filepath.Join(t.TempDir(), "access.log"), "--link-endpoint", endpointOf(t, where)))
	})
	t.Run("postgres", func(t *testing.T) {
		_, dsn := startPostgres(t)
		_, where, bucket := startBucket(t)
		noSecret(t, where, bucket, dsn, startPlatform(t, "--log-level", "debug", "--git-allow-private", "--access-log", filepath.Join(t.TempDir(), "access.log"), "--link-endpoint", endpointOf(t, where), "--database", dsn, "--blob", where))
	})
}

func endpointOf(t *testing.T, blob string) string {
	t.Helper()
	u, err := url.Parse(blob)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("endpoint")
}

func noSecret(t *testing.T, where, bucket, dsn string, p *platform) {
	org, user, admin := adminOf(t, p.data)
	secrets := map[string]string{"the admin's token": admin, "the access key's secret": os.Getenv("PANAL_S3_SECRET_KEY")}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// One of every kind.
	token, err := p.api.CreateToken(t.Context(), user, "second", "")
	ok(err)
	secrets["a personal access token"] = token.Secret
	source, err := p.api.CreateDatasource(t.Context(), "camera")
	ok(err)
	secrets["a datasource's secret"] = source.Secret
	const value = "swordfish-in-the-deep-sea"
	kept, err := p.api.CreateSecret(t.Context(), "db-password", []byte(value), nil)
	ok(err)
	secrets["a secret's value"] = value
	if err := os.Mkdir(filepath.Join(filepath.Dir(bucket), "linked"), 0o700); err != nil {
		t.Fatal(err)
	}
	linked, err := p.api.CreateChannel(t.Context(), "linked", "")
	ok(err)
	ask := client.NewLink{Endpoint: endpointOf(t, where), Bucket: "linked", AccessKey: os.Getenv("PANAL_S3_ACCESS_KEY"), SecretKey: os.Getenv("PANAL_S3_SECRET_KEY")}
	link, err := p.api.LinkChannel(t.Context(), linked.ID, ask)
	ok(err)
	secrets["a feed's secret"] = link.FeedSecret
	git := gittest.NewServer(t)
	repository := git.Init("leaf.git")
	git.Commit("leaf.git", "master", "main.py", "x = 1\n")
	git.User, git.Password = "bot", "g1t-t0ken-of-a-private-repository"
	secrets["a repository's token"] = git.Password
	dep, err := p.api.CreateDeployment(t.Context(), client.DeploymentParams{Name: new("leaf")})
	ok(err)
	fromGit, err := p.api.CodeFromGit(t.Context(), dep.ID, client.Git{URL: strings.Replace(repository, "//", "//bot:"+git.Password+"@", 1)}, client.CodeParams{Label: "1", Image: "abeja-inc/all-cpu:19.10"})
	ok(err)
	if fromGit.GitURL != repository {
		t.Errorf("the repository is %s", fromGit.GitURL)
	}
	empty, err := p.api.CreateChannel(t.Context(), "empty", "")
	ok(err)
	ch, err := p.api.CreateChannel(t.Context(), "plain", "")
	ok(err)
	// What is no secret is found where it belongs, or the search below proves nothing.
	const marker = "canary-that-is-no-secret"
	file, err := p.api.Upload(t.Context(), ch.ID, client.NewFile{Body: strings.NewReader("x"), Size: 1, Metadata: map[string]string{"marker": marker}})
	ok(err)
	signed := p.call(http.MethodPost, client.Path("channels", ch.ID), nil)
	upload, _ := signed["upload_url"].(string)
	if u, err := url.Parse(upload); err != nil || len(u.Query()) == 0 {
		t.Fatalf("a signed upload: %v", signed)
	} else {
		for name, v := range u.Query() {
			if len(v[0]) >= 32 {
				secrets["the "+name+" of a signed URL"] = v[0]
			}
		}
	}
	secrets["the admin's credentials"] = base64.StdEncoding.EncodeToString([]byte("user-" + user + ":" + admin))
	for name, s := range secrets {
		if len(s) < 16 {
			t.Fatalf("%s is %q", name, s)
		}
	}

	// Every way to be refused.
	refusals := map[int]int{}
	send := func(method, path, body string, header http.Header) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.listen+path, strings.NewReader(body))
		ok(err)
		maps.Copy(req.Header, header)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		defer func() { _ = res.Body.Close() }()
		answer, err := io.ReadAll(res.Body)
		ok(err)
		if res.StatusCode < 400 {
			return
		}
		refusals[res.StatusCode]++
		for name, s := range secrets {
			for _, shape := range shapes(s) {
				if bytes.Contains(answer, shape) {
					t.Errorf("%s %s = %d repeats %s: %s", method, path, res.StatusCode, name, answer)
				}
			}
		}
	}
	basic := func(who, pass string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(who+":"+pass))
	}
	adminAuth := http.Header{"Authorization": {basic("user-"+user, admin)}}
	in := client.Path("organizations", org)
	isToken := regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString
	for _, s := range secrets {
		esc, quoted := url.PathEscape(s), fmt.Sprintf("%q", s)
		for _, auth := range []string{
			"Bearer " + s, "Bearer " + s + "x", "Bearer  " + s + " " + s, "Token " + s, s, basic("user-"+user, s), basic("user-"+user, s+"x"), basic(s, "x"), basic(s, s), basic("datasource-"+source.ID, s),
			basic("user-1234567890123", s), basic("datasource-"+s, s), "Basic " + s, "Digest username=" + quoted,
		} {
			h := http.Header{"Authorization": {auth}}
			send(http.MethodGet, in+"/channels", "", h)
			send(http.MethodDelete, in+"/channels/1234567890123", "", h)
			send(http.MethodPost, "/feeds/"+linked.ID+"/s3", "{", h)
			send(http.MethodPost, "/feeds/"+ch.ID+"/s3", "{}", h)
			send(http.MethodPost, "/backup", "", h)
		}
		for _, auth := range []http.Header{{}, adminAuth} {
			// What has no form by which it is known is sent where it belongs.
			for _, body := range []string{
				`{"value":` + quoted + `}`, `{"name":"two","value":"%` + s + `"}`, `{"name":"n","value":` + quoted + `,"expired_at":1}`, `{"name":"n","value":` + quoted,
				`{"endpoint":7,"bucket":"linked","secret_key":` + quoted + `}`, `{"endpoint":"http://127.0.0.1:1","bucket":"linked","secret_key":` + quoted + `}`,
				`{"endpoint":"` + ask.Endpoint + `","bucket":"linked","access_key":"panal-test","secret_key":` + quoted + `}`,
				`{"endpoint":"` + ask.Endpoint + `","bucket":"nothing-there","access_key":"panal-test","secret_key":` + quoted + `}`,
				`{"endpoint":"` + ask.Endpoint + `","bucket":"linked","queue_url":"` + ask.Endpoint + `/1/q","queue_secret_key":` + quoted + `}`,
			} {
				for _, path := range []string{
					"/secret-manager" + in + "/secrets", "/secret-manager" + in + "/secrets/" + kept.ID + "/versions", in + "/channels/" + linked.ID + "/link", in + "/channels/" + empty.ID + "/link",
				} {
					if path != in+"/channels/"+empty.ID+"/link" || s != ask.SecretKey {
						send(http.MethodPost, path, body, auth)
					}
				}
			}
			for _, body := range []string{
				`{"git_url":"http://bot:` + esc + `@` + git.Listener.Addr().String() + `/leaf.git","git_branch":"nope","version":"2","image":"a/b:1"}`,
				`{"git_url":"http://` + esc + `@127.0.0.1:1/x","version":"2","image":"a/b:1"}`, `{"git_url":"ftp://x:` + esc + `@h/","version":"2","image":"a/b:1"}`,
				`{"git_url":"http://x:` + esc + `@h:port/%zz","version":"2","image":"a/b:1"}`, `{"git_url":["http://x:` + esc + `@h/"]}`,
			} {
				send(http.MethodPost, in+"/deployments/"+dep.ID+"/git/versions", body, auth)
			}
			for _, path := range []string{"/blobs/x?sig=", "/uploads/" + ch.ID + "/x?sig=", "/uploads/" + ch.ID + "/" + file.ID + "?exp=99999999999&sig="} {
				send(http.MethodPut, path+url.QueryEscape(s), "", auth)
				send(http.MethodGet, path+url.QueryEscape(s), "", auth)
			}
			if !isToken(s) {
				continue
			}
			with := func(name, v string) http.Header {
				h := auth.Clone()
				h[name] = []string{v}
				return h
			}
			for _, path := range []string{
				"/users/" + user + "/tokens/" + esc, "/users/" + esc + "/tokens", "/secret-manager" + in + "/secrets/" + esc, in + "/datasources/" + esc,
				in + "/channels/" + esc, "/channels/" + esc + "/" + esc, "/channels/" + ch.ID + "/" + esc, "/" + esc, "/blobs/" + esc, "/uploads/" + ch.ID + "/" + esc,
				in + "/channels/" + linked.ID + "/link/" + esc, "/organizations/" + esc, in + "/registry/repositories/" + esc + "/tags/" + esc, in + "/training/definitions/" + esc,
				"/deployments/" + esc, in + "/security/cidrs/" + esc, in + "/users/" + esc,
			} {
				for _, method := range []string{http.MethodGet, http.MethodDelete, http.MethodPatch, http.MethodPut, http.MethodPost} {
					send(method, path, "{}", auth)
				}
			}
			q := url.QueryEscape(s)
			for _, path := range []string{
				"/channels/" + ch.ID + "?query=" + q, "/channels/" + ch.ID + "?query=(" + q, "/channels/" + ch.ID + "?next_page_token=" + q, in + "/channels?limit=" + q,
				in + "/audit?start=" + q, in + "/audit?next_page_token=" + q, "/channels/" + ch.ID + "/count?q=a:b:" + q + "*:", in + "/nothing?token=" + q,
				"/blobs/x?sig=" + q, "/uploads/" + ch.ID + "/x?sig=" + q + "&exp=" + q, "/channels/" + ch.ID + "?sort=" + q, "/channels/" + ch.ID + "?start=" + q,
			} {
				for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost} {
					send(method, path, "", auth)
				}
			}
			for _, name := range []string{"X-Abeja-Meta-" + strings.Repeat("k", 9000), "Content-Type", "Range", "If-None-Match", "X-Request-Id", "X-Forwarded-For", "Expect", "Cookie", "Content-Encoding"} {
				send(http.MethodPost, "/channels/1234567890123/upload", "", with(name, s)) // one that is taken keeps its type
				send(http.MethodPost, in+"/channels", "{", with(name, s))
			}
			send(http.MethodPost, in+"/channels", "", with("X-Filler", s+strings.Repeat("x", 300_000)))
			for _, body := range []string{
				quoted, "{" + quoted, "{" + quoted + ":1}", `{"name":` + quoted, `{"name":[` + quoted + `]}`, `{"value":` + quoted + `}`, `{"name":"two","value":"%` + s + `"}`, s,
				`{"name":"n","value":` + quoted + `,"expired_at":` + quoted + `}`, `{"email":` + quoted + `,"role":` + quoted + `}`, `{"cidr":` + quoted + `}`, `{"lifetime":` + quoted + `}`,
				`{"status":` + quoted + `}`, `{"name":"t","expires_at":` + quoted + `}`, `{"metadata":` + quoted + `}`, `{"content_type":` + quoted + `,"metadata":` + quoted + `}`,
			} {
				for _, path := range []string{
					in + "/channels", "/secret-manager" + in + "/secrets", "/secret-manager" + in + "/secrets/" + kept.ID + "/versions", in + "/datasources", "/users/" + user + "/tokens",
					in + "/users", in + "/security/cidrs", in + "/channels/" + linked.ID + "/link", "/channels/" + ch.ID + "/delete", in + "/datasets", "/organizations",
				} {
					if path != in+"/channels" && path != in+"/datasources" && path != in+"/datasets" && path != "/users/"+user+"/tokens" && path != "/organizations" || !strings.Contains(body, `"name":`+quoted) {
						send(http.MethodPost, path, body, auth)
					}
				}
				send(http.MethodPut, "/channels/"+ch.ID+"/"+file.ID+"/lifetime", body, auth)
				send(http.MethodPatch, "/secret-manager"+in+"/secrets/"+kept.ID, body, auth)
			}
		}
	}
	for _, status := range []int{400, 401, 403, 404, 405, 431} {
		if refusals[status] == 0 {
			t.Errorf("no request was refused with %d: %v", status, refusals)
		}
	}
	t.Logf("refusals by status: %v", refusals)

	// The journal is written in the background; what is written last is found, so that all is.
	places := func() map[string][]byte {
		all := map[string][]byte{"an audit row": auditText(t, p.api)}
		log, err := os.ReadFile(p.log.Name())
		ok(err)
		all["the server's log"] = log
		log, err = os.ReadFile(p.flags[slices.Index(p.flags, "--access-log")+1])
		ok(err)
		all["the access log"] = log
		if dsn != "" {
			all["the dump of the database"], err = dumped(dsn)
			ok(err)
		}
		for _, dir := range []string{p.data, bucket} {
			ok(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() || d.Name() == "admin.json" {
					return nil //nolint:nilerr // it was deleted meanwhile
				}
				b, err := os.ReadFile(path)
				if err == nil {
					all[path] = unpacked(b)
				}
				return nil
			}))
		}
		return all
	}
	journal := regexp.MustCompile(`blobs|journal`)
	var all map[string][]byte
	p.until("the marker in the journal and in the database", time.Minute, func() bool {
		all = places()
		inJournal, inDatabase := false, false
		for where, content := range all {
			switch found := bytes.Contains(content, []byte(marker)); {
			case !found:
			case strings.HasPrefix(where, "the dump") || strings.Contains(where, ".db"):
				inDatabase = true
			case journal.MatchString(where):
				inJournal = true
			}
		}
		return inJournal && inDatabase
	})
	for _, where := range []string{"an audit row", "the server's log", "the access log"} {
		if !bytes.Contains(all[where], []byte("/tokens/(token)")) {
			t.Errorf("%s does not tell of the calls", where)
		}
	}
	for where, content := range all {
		for name, s := range secrets {
			for _, shape := range shapes(s) {
				if i := bytes.Index(content, shape); i >= 0 {
					t.Errorf("%s is in %s: %q", name, where, content[max(0, i-200):min(len(content), i+len(shape)+50)])
				}
			}
		}
	}
}
