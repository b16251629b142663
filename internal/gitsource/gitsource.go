// SPDX-License-Identifier: Apache-2.0

// Package gitsource fetches the tree of one commit of a git repository over
// http(s), as a tar.gz.
//
// Invariants. A repository, the server that has it and the URL that names it are
// all hostile: nothing of a repository is ever executed (no git program, no hooks,
// no filters, no submodules); addresses of the private network are refused when
// the connection is made, so that no name or redirect leads there; what is
// downloaded, what it unpacks to, each file of it, their number and the time for
// it all are bounded, and nothing larger than a file is held in memory.
// Credentials in a URL are sent to its host and nowhere else, and are in no
// result, error or record.
package gitsource

import (
	"context"
	"crypto/sha1" //nolint:gosec // the length of git's ids
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"

	"panal/internal/plat"
)

// Limits bound a fetch. A zero field takes the value of DefaultLimits.
type Limits struct {
	Download int64         // bytes that the server sends
	File     int64         // one file
	Total    int64         // all that the download unpacks to
	Entries  int           // files, directories and whatever else is in the download
	Time     time.Duration // for it all
	AtOnce   int           // fetches; more wait
}

// DefaultLimits suit source code.
func DefaultLimits() Limits {
	return Limits{Download: 512 << 20, File: 100 << 20, Total: 2 << 30, Entries: 200_000, Time: 2 * time.Minute, AtOnce: 2}
}

// Config is how a Fetcher fetches.
type Config struct {
	// Dir is where files are kept meanwhile.
	Dir string
	// AllowPrivate allows http, and addresses of the private network.
	AllowPrivate bool
	Limits       Limits
}

// Fetcher fetches. It is safe for concurrent use.
type Fetcher struct {
	Config
	room chan struct{}
}

// New returns a Fetcher.
func New(c Config) *Fetcher {
	def := DefaultLimits()
	orDefault(&c.Limits.Download, def.Download)
	orDefault(&c.Limits.File, def.File)
	orDefault(&c.Limits.Total, def.Total)
	orDefault(&c.Limits.Entries, def.Entries)
	orDefault(&c.Limits.Time, def.Time)
	orDefault(&c.Limits.AtOnce, def.AtOnce)
	return &Fetcher{Config: c, room: make(chan struct{}, c.Limits.AtOnce)}
}

func orDefault[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// Source is a fetched tree.
type Source struct {
	*os.File // the tar.gz
	Git      plat.Git
	size     int64
	dir      string
}

// Size returns the length of the archive.
func (s *Source) Size() int64 { return s.size }

// Close removes the archive.
func (s *Source) Close() error { return errors.Join(s.File.Close(), os.RemoveAll(s.dir)) }

// The fields of the request that errors name.
const (
	fieldURL = "git_url"
	fieldRef = "git_branch"
)

// defaultBranch is the document's (compute.md §2.4); a repository without it is
// taken at its HEAD.
const defaultBranch = "master"

const maxURL = 2048

// Fetch fetches what ref names: a branch, a tag or the full id of a commit; "" is
// the branch master, or else the repository's HEAD. What is wrong with URL,
// repository or its server is ErrInvalid. The caller closes the Source.
func (f *Fetcher) Fetch(ctx context.Context, rawURL, ref string) (*Source, error) {
	u, auth, err := f.parse(rawURL)
	if err != nil {
		return nil, err
	}
	if len(ref) > 255 || strings.ContainsFunc(ref, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, plat.InvalidField(fieldRef, "must be the name of a branch or a tag, or the id of a commit")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.Limits.Time, errTime)
	defer cancel()
	select {
	case f.room <- struct{}{}:
		defer func() { <-f.room }()
	case <-ctx.Done():
		return nil, plat.Errorf(plat.ErrUnavailable, "too many repositories are being fetched; try again later")
	}
	dir, err := os.MkdirTemp(f.Dir, "git-")
	if err != nil {
		return nil, fmt.Errorf("fetch repository: %w", err)
	}
	s, err := f.fetch(ctx, dir, u, auth, ref)
	if err != nil {
		return nil, errors.Join(f.explain(ctx, u, err), os.RemoveAll(dir))
	}
	return s, nil
}

var (
	errTime    = errors.New("out of time")
	errPrivate = errors.New("private address")
	errBytes   = errors.New("too many bytes")
)

// parse checks a URL and takes the credentials out of it.
func (f *Fetcher) parse(raw string) (*url.URL, *githttp.BasicAuth, error) {
	if raw == "" {
		return nil, nil, plat.InvalidField(fieldURL, "is required, such as https://git.example.com/team/project.git")
	}
	if len(raw) > maxURL {
		return nil, nil, plat.InvalidField(fieldURL, "has more than %d bytes", maxURL)
	}
	u, err := url.Parse(raw) // its error holds the URL, credentials and all
	if err != nil {          // as git@HOST:PATH is none
		return nil, nil, plat.InvalidField(fieldURL, "must be a URL, such as https://git.example.com/team/project.git")
	}
	switch {
	case u.Scheme == "http" && !f.AllowPrivate:
		return nil, nil, plat.InvalidField(fieldURL, "must begin with https:// (http is allowed only by the server's --git-allow-private)")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, nil, plat.InvalidField(fieldURL, "must begin with https://")
	case u.Hostname() == "" || u.Opaque != "":
		return nil, nil, plat.InvalidField(fieldURL, "names no host")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, nil, plat.InvalidField(fieldURL, "must have neither a query nor a fragment")
	}
	var auth *githttp.BasicAuth
	if u.User != nil {
		password, _ := u.User.Password()
		auth = &githttp.BasicAuth{Username: u.User.Username(), Password: password}
		u.User = nil
	}
	return u, auth, nil
}

func (f *Fetcher) fetch(ctx context.Context, dir string, u *url.URL, auth *githttp.BasicAuth, ref string) (*Source, error) {
	web := f.web()
	defer web.CloseIdleConnections()
	ep, err := transport.NewEndpoint(u.String())
	if err != nil {
		return nil, err
	}
	var method transport.AuthMethod
	if auth != nil {
		method = auth
	}
	session, err := githttp.NewClient(web).NewUploadPackSession(ep, method)
	if err != nil {
		return nil, err
	}
	adv, err := session.AdvertisedReferencesContext(ctx)
	if err != nil {
		return nil, err
	}
	name, want, err := resolve(adv, ref)
	if err != nil {
		return nil, err
	}
	pack, err := f.download(ctx, session, adv, want, filepath.Join(dir, "pack"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = pack.Close() }()
	if err := f.check(ctx, pack); err != nil {
		return nil, err
	}
	return f.archive(ctx, dir, pack, plat.Git{URL: u.String(), Ref: name, Commit: want.String()})
}

// resolve finds the commit that a name stands for.
func resolve(adv *packp.AdvRefs, ref string) (name string, commit plumbing.Hash, err error) {
	names := []string{"refs/heads/" + ref, "refs/tags/" + ref}
	switch {
	case ref == "":
		names = []string{"refs/heads/" + defaultBranch}
	case strings.HasPrefix(ref, "refs/"):
		names = append(names, ref)
	}
	for _, full := range names {
		// An annotated tag is an object of its own; peeled is the commit.
		if h, ok := adv.Peeled[full]; ok {
			return ref, h, nil
		}
		if h, ok := adv.References[full]; ok {
			if ref == "" {
				ref = defaultBranch
			}
			return ref, h, nil
		}
	}
	if ref == "" && adv.Head != nil {
		return "HEAD", *adv.Head, nil
	}
	if raw, err := hex.DecodeString(ref); err == nil && len(raw) == sha1.Size {
		return ref, plumbing.NewHash(ref), nil
	}
	var known []string
	for full := range adv.References {
		for _, kind := range []string{"refs/heads/", "refs/tags/"} {
			if short, ok := strings.CutPrefix(full, kind); ok {
				known = append(known, printable(short))
			}
		}
	}
	slices.Sort(known)
	more := ""
	if len(known) > 10 {
		known, more = known[:10], ", …"
	}
	if ref == "" {
		ref = defaultBranch
	}
	return "", plumbing.ZeroHash, plat.InvalidField(fieldRef, "the repository has no branch or tag %q; it has %s%s (a commit is named by all 40 digits of its id)", ref, strings.Join(known, ", "), more)
}

// printable bounds a word of the server's.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return s[:min(len(s), 60)]
}

// download stores the pack of one commit.
func (f *Fetcher) download(ctx context.Context, session transport.UploadPackSession, adv *packp.AdvRefs, want plumbing.Hash, path string) (*os.File, error) {
	req := packp.NewUploadPackRequestFromCapabilities(adv.Capabilities)
	req.Capabilities.Delete(capability.ThinPack)
	req.Wants = append(req.Wants, want)
	if adv.Capabilities.Supports(capability.Shallow) {
		if err := req.Capabilities.Set(capability.Shallow); err != nil {
			return nil, err
		}
		req.Depth = packp.DepthCommits(1)
	}
	resp, err := session.UploadPack(ctx, req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Close() }()
	var in io.Reader = resp
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		in = sideband.NewDemuxer(sideband.Sideband64k, resp)
	case req.Capabilities.Supports(capability.Sideband):
		in = sideband.NewDemuxer(sideband.Sideband, resp)
	}
	pack, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(pack, in); err != nil {
		return nil, errors.Join(err, pack.Close())
	}
	return pack, nil
}

// web is the client of one fetch.
func (f *Fetcher) web() *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, ControlContext: f.mayDial}
	return &http.Client{
		Transport: &bounded{left: f.Limits.Download, next: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		}},
		// Moved within its host (a new name, https instead of http) is fine; elsewhere
		// could be anywhere.
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Hostname() != via[0].URL.Hostname() {
				return plat.InvalidField(fieldURL, "the server sends on to another host, %s; give the URL there", printable(req.URL.Hostname()))
			}
			return nil
		},
	}
}

// bounded ends the answers of a client once they have too many bytes in all.
type bounded struct {
	next *http.Transport
	left int64 // one request at a time
}

// RoundTrip implements http.RoundTripper.
func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = &boundedBody{resp.Body, b}
	}
	return resp, err
}

// CloseIdleConnections ends the connections that are kept.
func (b *bounded) CloseIdleConnections() { b.next.CloseIdleConnections() }

type boundedBody struct {
	io.ReadCloser
	b *bounded
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.b.left -= int64(n); b.b.left < 0 {
		return 0, errBytes
	}
	return n, err
}

// explain says in a sentence why a fetch failed. Nothing that the server has sent
// is in it.
func (f *Fetcher) explain(ctx context.Context, u *url.URL, err error) error {
	var pe *plat.Error
	var op *net.OpError
	if unexpected, ok := errors.AsType[*plumbing.UnexpectedError](err); ok { // it does not unwrap
		err = unexpected.Err
	}
	var status *githttp.Err
	say := func(format string, args ...any) error {
		return &plat.Error{Kind: plat.ErrInvalid, Public: fmt.Sprintf("git_url: "+format, args...), Detail: map[string][]string{fieldURL: {fmt.Sprintf(format, args...)}}, Err: err}
	}
	host := u.Host
	switch {
	case errors.As(err, &pe):
		return pe
	case errors.Is(context.Cause(ctx), errTime):
		return say("the repository was not fetched within %v", f.Limits.Time)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errPrivate):
		return say("%s is an address of a private network; the server allows those with --git-allow-private", host)
	case errors.Is(err, errBytes):
		return say("the repository has more than %d MiB", f.Limits.Download>>20)
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		return say("%s refuses access: there is no such repository, or it needs other credentials (https://USER:TOKEN@%s/…)", host, host)
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return say("%s has no such repository", host)
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return say("the repository is empty")
	case errors.As(err, &status):
		return say("%s answers with status %d", host, status.StatusCode())
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return say("the certificate of %s is not trusted: it must be valid, be for that name, and come from an authority that the server's machine trusts", host)
	case errors.As(err, &op):
		return say("%s can't be reached: %v", host, op.Err)
	case errors.Is(err, os.ErrPermission), errors.As(err, new(*os.PathError)):
		return fmt.Errorf("fetch repository: %w", err)
	}
	return say("%s gave no repository that can be read, or not the commit that was asked for", host)
}
