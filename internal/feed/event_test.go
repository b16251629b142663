// SPDX-License-Identifier: Apache-2.0

package feed_test

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/feed"
	"panal/internal/plat"
)

func s3(name, key, rest string) string {
	return `{"Records":[{"eventVersion":"2.1","eventSource":"aws:s3","eventTime":"2026-11-26T01:02:03.000Z","eventName":"` + name +
		`","s3":{"bucket":{"name":"b"},"object":{"key":"` + key + `","sequencer":"0055AED6DCD90281E5"` + rest + `}}}]}`
}

func sns(inner string) string {
	return `{"Type":"Notification","MessageId":"1","Message":` + strconv.Quote(inner) + `}`
}

func TestParse(t *testing.T) {
	bridge := `{"version":"0","detail-type":"Object Created","source":"aws.s3","time":"2026-11-26T01:02:03Z","detail":{"bucket":{"name":"b"},"object":{"key":"a b+c","sequencer":"00A1"}}}`
	for name, tc := range map[string]struct {
		in   string
		keys []string
		bad  string
	}{
		"created":            {in: s3("ObjectCreated:Put", "dir/a.jpg", `,"size":3,"eTag":"x"`), keys: []string{"dir/a.jpg"}},
		"prefix of s3":       {in: s3("s3:ObjectRemoved:DeleteMarkerCreated", "a", ""), keys: []string{"a"}},
		"expired":            {in: s3("LifecycleExpiration:Delete", "a", ""), keys: []string{"a"}},
		"plus is a space":    {in: s3("ObjectCreated:Put", "a+b%2Bc%20d", ""), keys: []string{"a b+c d"}},
		"UTF-8 keys":         {in: s3("ObjectCreated:Put", "%E8%9C%82/%F0%9F%90%9D", ""), keys: []string{"蜂/🐝"}},
		"tags":               {in: s3("ObjectTagging:Put", "a", "")},
		"no records":         {in: `{"Records":[]}`},
		"test message":       {in: `{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"b"}`},
		"newer minor":        {in: strings.Replace(s3("ObjectCreated:Put", "a", ""), "2.1", "2.9", 1), keys: []string{"a"}},
		"SNS":                {in: sns(s3("ObjectCreated:Put", "a", "")), keys: []string{"a"}},
		"SNS twice":          {in: sns(sns(s3("ObjectCreated:Put", "a", ""))), keys: []string{"a"}},
		"EventBridge":        {in: bridge, keys: []string{"a b+c"}},
		"EventBridge in SNS": {in: sns(bridge), keys: []string{"a b+c"}},
		"EventBridge other":  {in: strings.Replace(bridge, "Object Created", "Object Tags Added", 1)},
		"bad time":           {in: strings.Replace(s3("ObjectCreated:Put", "a", ""), "2026-11-26T01:02:03.000Z", "yesterday", 1), keys: []string{"a"}},

		"broken":          {in: `{"Records":[{`, bad: "not the JSON"},
		"empty":           {in: ``, bad: "not the JSON"},
		"a list":          {in: `[]`, bad: "not the JSON"},
		"no event":        {in: `{}`, bad: "no storage event"},
		"trailing":        {in: `{"Records":[]} x`, bad: "after top-level value"},
		"unknown version": {in: strings.Replace(s3("ObjectCreated:Put", "a", ""), "2.1", "3.0", 1), bad: "version"},
		"no key":          {in: `{"Records":[{"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{}}}]}`, bad: "s3.object.key"},
		"no s3":           {in: `{"Records":[{"eventName":"ObjectCreated:Put"}]}`, bad: "s3.object.key"},
		"no name":         {in: `{"Records":[{}]}`, bad: "eventName"},
		"bad escape":      {in: s3("ObjectCreated:Put", "%zz", ""), bad: "URL-encoded"},
		"NUL":             {in: s3("ObjectCreated:Put", "a%00", ""), bad: "NUL"},
		"not UTF-8":       {in: s3("ObjectCreated:Put", "%ff", ""), bad: "UTF-8"},
		"long key":        {in: s3("ObjectCreated:Put", strings.Repeat("k", 1025), ""), bad: "1025 bytes"},
		"empty key":       {in: s3("ObjectCreated:Put", "", ""), bad: "0 bytes"},
		"bad sequencer":   {in: s3("ObjectCreated:Put", "a", `,"sequencer":"xyz"`), bad: "sequencer"},
		"wrapped too deep": {
			in: sns(sns(sns(sns(s3("ObjectCreated:Put", "a", ""))))), bad: "packed",
		},
		"subscription":  {in: `{"Type":"SubscriptionConfirmation","SubscribeURL":"http://x","Message":"m"}`, bad: "confirm it"},
		"other service": {in: strings.Replace(bridge, "aws.s3", "aws.ec2", 1), bad: "aws.ec2"},
		"huge":          {in: strings.Repeat(" ", feed.MaxBody+1), bad: "limit"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := feed.Parse([]byte(tc.in))
			if tc.bad != "" {
				if !errors.Is(err, plat.ErrInvalid) || !strings.Contains(err.Error(), tc.bad) || got != nil {
					t.Fatalf("got %v, %v, want ErrInvalid with %q", got, err, tc.bad)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, e := range got {
				if e.Bucket != "b" || e.Sequencer == "" || e.At.IsZero() && name != "bad time" {
					t.Errorf("event %+v", e)
				}
				keys = append(keys, e.Key)
			}
			if d := cmp.Diff(tc.keys, keys); d != "" {
				t.Errorf("keys: %s", d)
			}
		})
	}
}

func TestSequencersCompareByThePaddedNumber(t *testing.T) {
	for _, tc := range []struct {
		a, b feed.Sequencer
		want int
	}{
		{"", "", 0}, {"", "1", -1}, {"1", "10", 0}, {"12", "1", 1}, {"0A", "0a", 0}, {"09", "0A", -1}, {"1", "0F", 1},
	} {
		if got := tc.a.Compare(tc.b); got != tc.want {
			t.Errorf("%q.Compare(%q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}

func TestAnyKeyRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringN(1, 200, 1024).Filter(func(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }).Draw(t, "key")
		got, err := feed.Parse([]byte(s3("ObjectCreated:Put", url.QueryEscape(key), "")))
		if err != nil || len(got) != 1 || got[0].Key != key {
			t.Fatalf("%q: %v, %v", key, got, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(s3("ObjectCreated:Put", "a+b", "")))
	f.Add([]byte(sns(s3("ObjectRemoved:Delete", "a", ""))))
	f.Add([]byte(`{"source":"aws.s3","detail-type":"Object Created","detail":{"bucket":{"name":"b"},"object":{"key":"k"}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := feed.Parse(body)
		if err != nil && (!errors.Is(err, plat.ErrInvalid) || got != nil) {
			t.Fatalf("got %v, %v", got, err)
		}
		for _, e := range got {
			if e.Key == "" || len(e.Key) > 1024 || !utf8.ValidString(e.Key) || strings.ContainsRune(e.Key, 0) || e.Bucket == "" {
				t.Fatalf("event %+v", e)
			}
		}
	})
}
