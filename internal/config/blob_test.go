// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"panal/internal/config"
	"panal/internal/plat"
)

func TestParseBlob(t *testing.T) {
	for in, want := range map[string]config.Blob{
		"":                          {},
		"dir:/srv/panal/":           {Dir: "/srv/panal"},
		"s3://bucket":               {Bucket: "bucket", Presign: true},
		"s3://bucket?presign=false": {Bucket: "bucket"},
		"s3://my.bucket-1/":         {Bucket: "my.bucket-1", Presign: true},
		"s3://bucket?prefix=a/b&region=eu-west-1": {Bucket: "bucket", Presign: true, Prefix: "a/b/", Region: "eu-west-1"},
		"s3://bucket?endpoint=http://127.0.0.1:7070&public_endpoint=https://files.example/": {
			Bucket: "bucket", Presign: true, Endpoint: "http://127.0.0.1:7070", PublicEndpoint: "https://files.example", PathStyle: true,
		},
		"s3://bucket?endpoint=https%3A%2F%2Fs3.example&path_style=false&prefix=p/": {Bucket: "bucket", Presign: true, Endpoint: "https://s3.example", Prefix: "p/"},
	} {
		got, err := config.ParseBlob(in)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got)\n%s", in, err, diff)
		}
	}
	for in, text := range map[string]string{
		"/srv/panal":                          "must be dir:/PATH or s3://",
		"gs://bucket":                         "must be dir:/PATH or s3://",
		"s3:bucket":                           "must be dir:/PATH or s3://",
		"dir:panal":                           "absolute path",
		"dir:":                                "absolute path",
		"s3://":                               "the bucket after s3://",
		"s3://Bucket":                         "the bucket after s3://",
		"s3://b":                              "the bucket after s3://",
		"s3://bucket:80":                      "the bucket after s3://",
		"s3://bucket/folder":                  "prefix=",
		"s3://bucket#x":                       `"#"`,
		"s3://key:hunter2@bucket":             "PANAL_S3_SECRET_KEY",
		"s3://bucket?secret_key=hunter2":      "none of endpoint,",
		"s3://bucket?region=a&region=hunter2": "one value",
		"s3://bucket?region=":                 "one value",
		"s3://bucket?region=hunter2%00":       "region must",
		"s3://bucket?endpoint=hunter2":        "endpoint must be http(s)://HOST",
		"s3://bucket?endpoint=http://a:hunter2@b":        "endpoint must be http(s)://HOST",
		"s3://bucket?public_endpoint=http://h/x":         "public_endpoint must be",
		"s3://bucket?prefix=/":                           "prefix must",
		"s3://bucket?prefix=a//b":                        "prefix must",
		"s3://bucket?prefix=../a":                        "prefix must",
		"s3://bucket?prefix=a%0Ab":                       "prefix must",
		"s3://bucket?prefix=" + strings.Repeat("a", 600): "prefix must",
		"s3://bucket?presign=maybe":                      "presign must",
		"s3://bucket?path_style=maybe":                   "path_style must",
		"s3://bucket?a=%zz":                              "percent-encoded",
	} {
		_, err := config.ParseBlob(in)
		if !errors.Is(err, plat.ErrInvalid) || !strings.HasPrefix(err.Error(), "blob: ") || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%.60s: %v, want %q", in, err, text)
		}
	}
}
