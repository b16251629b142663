// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"panal/internal/plat"
)

// Blob is where files are kept: one of Dir and Bucket, or neither for the data directory.
type Blob struct {
	Dir string // absolute

	Bucket, Region, Prefix   string // Prefix: empty, or ending in "/"
	Endpoint, PublicEndpoint string // http(s)://HOST[:PORT]; empty: Amazon's; as Endpoint
	PathStyle                bool   // the bucket is named in the path, not in the host
	Presign                  bool   // clients may fetch from the bucket themselves
}

const (
	maxPrefix  = 512 // bytes; keys of Panal's own need the rest of S3's 1,024
	blobParams = "endpoint, public_endpoint, region, prefix, path_style, presign"
)

// ParseBlob reads --blob. Errors never repeat the text, which could hold a secret
// that does not belong there.
func ParseBlob(s string) (Blob, error) {
	if s == "" {
		return Blob{}, nil
	}
	if dir, ok := strings.CutPrefix(s, "dir:"); ok {
		if !filepath.IsAbs(dir) {
			return Blob{}, plat.InvalidField("blob", "dir: needs an absolute path, as in dir:/srv/panal")
		}
		return Blob{Dir: filepath.Clean(dir)}, nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "s3" || u.Opaque != "":
		return Blob{}, plat.InvalidField("blob", "must be dir:/PATH or s3://BUCKET?endpoint=…")
	case u.User != nil:
		return Blob{}, plat.InvalidField("blob", "holds credentials; set them in PANAL_S3_ACCESS_KEY and PANAL_S3_SECRET_KEY (or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)")
	case !regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`).MatchString(u.Host):
		return Blob{}, plat.InvalidField("blob", "the bucket after s3:// must have 3 to 63 characters of a-z, 0-9, \".\" and \"-\"")
	case u.Path != "" && u.Path != "/":
		return Blob{}, plat.InvalidField("blob", "has a path after the bucket; a folder in it is prefix=…")
	case u.Fragment != "":
		return Blob{}, plat.InvalidField("blob", "has a \"#\"; write it as %%23")
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Blob{}, plat.InvalidField("blob", "what follows the \"?\" is not NAME=VALUE&…, percent-encoded")
	}
	b := Blob{Bucket: u.Host, PathStyle: q.Has("endpoint"), Presign: true}
	for name, values := range q {
		if len(values) != 1 || values[0] == "" {
			return Blob{}, plat.InvalidField("blob", "a parameter needs one value (known: %s)", blobParams)
		}
		if err := b.set(name, values[0]); err != nil {
			return Blob{}, err
		}
	}
	return b, nil
}

func (b *Blob) set(name, v string) error {
	switch name {
	case "endpoint", "public_endpoint":
		u, err := url.Parse(v)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
			return plat.InvalidField("blob", "%s must be http(s)://HOST[:PORT]", name)
		}
		v = u.Scheme + "://" + u.Host
		if name == "endpoint" {
			b.Endpoint = v
		} else {
			b.PublicEndpoint = v
		}
	case "region":
		if !regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`).MatchString(v) {
			return plat.InvalidField("blob", "region must be 1 to 64 letters, digits, \"-\" and \"_\"")
		}
		b.Region = v
	case "prefix":
		v = strings.TrimSuffix(v, "/")
		bad := slices.ContainsFunc(strings.Split(v, "/"), func(seg string) bool { return seg == "" || seg == "." || seg == ".." })
		if bad || len(v) > maxPrefix || !utf8.ValidString(v) || strings.ContainsFunc(v, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			return plat.InvalidField("blob", "prefix must be names with \"/\" between them, %d bytes at most", maxPrefix)
		}
		b.Prefix = v + "/"
	case "path_style", "presign":
		on, err := strconv.ParseBool(v)
		switch {
		case err != nil:
			return plat.InvalidField("blob", "%s must be true or false", name)
		case name == "presign":
			b.Presign = on
		default:
			b.PathStyle = on
		}
	default:
		return plat.InvalidField("blob", "has a parameter that is none of %s", blobParams)
	}
	return nil
}

func (c *Server) validateBlob() error {
	b, err := ParseBlob(c.Blob)
	if err != nil {
		return err
	}
	if b.Bucket == "" {
		if c.UploadQueue+c.UploadSecret != "" {
			return plat.InvalidField("upload-queue", "and upload-secret are for files in a bucket: --blob=s3://…")
		}
		return nil
	}
	if u, err := url.Parse(c.UploadQueue); c.UploadQueue != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || len(u.Path) < 2) {
		return plat.InvalidField("upload-queue", "%q is not the URL of an SQS queue: http(s)://HOST[:PORT]/ACCOUNT/NAME", c.UploadQueue)
	}
	if n := len(c.UploadSecret); c.UploadSecret != "" && n < 16 {
		return plat.InvalidField("upload-secret", "has %d bytes; at least 16, of those that nobody guesses", n)
	}
	if slices.Contains([]string{c.S3SecretKey, c.S3Session, c.UploadSecret}, redacted) {
		return plat.InvalidField("s3-secret-key", "is %q, as config print writes it; put it in PANAL_S3_SECRET_KEY", redacted)
	}
	if c.S3AccessKey == "" || c.S3SecretKey == "" {
		return plat.InvalidField("blob", "a bucket needs credentials: PANAL_S3_ACCESS_KEY and PANAL_S3_SECRET_KEY, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	return nil
}
