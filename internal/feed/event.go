// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"panal/internal/plat"
)

// Event says that something happened to an object.
type Event struct {
	Bucket, Key string
	// Sequencer orders the events of one key; empty when the storage sends none.
	Sequencer Sequencer
	At        time.Time // zero when not said
}

// Sequencer is a hexadecimal number that grows with the events of one key.
type Sequencer string

// Compare orders two sequencers of one key. The shorter is continued with zeros on the
// right, as the storage's documents say. An empty one is before all.
func (s Sequencer) Compare(t Sequencer) int {
	a, b := strings.ToUpper(string(s)), strings.ToUpper(string(t))
	if n := len(b) - len(a); n > 0 {
		a += strings.Repeat("0", n)
	} else {
		b += strings.Repeat("0", -n)
	}
	return strings.Compare(a, b)
}

const (
	maxKey       = 1024 // bytes, of any S3
	maxSequencer = 64
	// maxEvents bounds the records of one message. The storages send one; more come only
	// from a forger, or a relay that packs.
	maxEvents = 10_000
	// maxWrapping is how deep an event may be packed: a topic's envelope within another.
	maxWrapping = 3
)

// Parse reads a message: an S3 event notification (its versions 2.x), a storage event of
// EventBridge, either also inside SNS's envelope. Messages that name no object (the
// storage's test message; a topic's offer to subscribe is refused instead) and events of
// other kinds than creation and removal give none. ErrInvalid, with the reason, for
// what can't be read: nothing of a message is used then.
func Parse(body []byte) ([]Event, error) { return parse(body, 0) }

// envelope has the fields of every kind of message; which are there tells the kind.
type envelope struct {
	Records []record `json:"Records"`
	// A test message.
	Event string `json:"Event"`
	// SNS.
	Type    string  `json:"Type"`
	Message *string `json:"Message"`
	// EventBridge.
	Source     string     `json:"source"`
	DetailType string     `json:"detail-type"`
	Time       looseTime  `json:"time"`
	Detail     *bridgeMsg `json:"detail"`
}

type record struct {
	Version string    `json:"eventVersion"`
	Source  string    `json:"eventSource"`
	Name    string    `json:"eventName"`
	Time    looseTime `json:"eventTime"`
	S3      *struct {
		Bucket struct {
			Name string `json:"name"`
		} `json:"bucket"`
		Object struct {
			Key       *string `json:"key"`
			Sequencer string  `json:"sequencer"`
		} `json:"object"`
	} `json:"s3"`
}

type bridgeMsg struct {
	Bucket struct {
		Name string `json:"name"`
	} `json:"bucket"`
	Object struct {
		Key       *string `json:"key"`
		Sequencer string  `json:"sequencer"`
	} `json:"object"`
}

// looseTime is a time for people: an unreadable one is not a reason to lose an event.
type looseTime struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler.
func (t *looseTime) UnmarshalJSON(b []byte) error {
	if at, err := time.Parse(time.RFC3339, strings.Trim(string(b), `"`)); err == nil {
		t.Time = at.UTC()
	}
	return nil
}

func parse(body []byte, depth int) ([]Event, error) {
	switch {
	case len(body) > MaxBody:
		return nil, unreadable("has %d bytes; the limit is %d", len(body), MaxBody)
	case !utf8.Valid(body):
		return nil, unreadable("is not UTF-8")
	}
	var e envelope
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, unreadable("is not the JSON of an event: %v", err)
	}
	switch {
	case e.Records != nil:
		return s3Records(e.Records)
	case e.Event == "s3:TestEvent":
		return nil, nil
	case e.Message != nil && e.Type == "Notification":
		if depth == maxWrapping {
			return nil, unreadable("is packed more than %d times", maxWrapping)
		}
		return parse([]byte(*e.Message), depth+1)
	case e.Type == "SubscriptionConfirmation" || e.Type == "UnsubscribeConfirmation":
		return nil, unreadable("is a topic's %s; confirm it at the topic", e.Type)
	case e.Source != "" && e.Detail != nil:
		return bridged(e)
	}
	return nil, unreadable("is no storage event: it has neither Records nor detail")
}

func s3Records(all []record) ([]Event, error) {
	if len(all) > maxEvents {
		return nil, unreadable("has %d records; the limit is %d", len(all), maxEvents)
	}
	out := make([]Event, 0, len(all))
	for _, r := range all {
		// Minor versions add fields; a major one may change what they mean.
		if r.Version != "" && !strings.HasPrefix(r.Version, "2.") {
			return nil, unreadable("has event version %.20q; versions 2.x are known", r.Version)
		}
		name := strings.TrimPrefix(r.Name, "s3:")
		if !strings.HasPrefix(name, "ObjectCreated:") && !strings.HasPrefix(name, "ObjectRemoved:") && !strings.HasPrefix(name, "LifecycleExpiration:") {
			if r.Name == "" {
				return nil, unreadable("has a record without eventName")
			}
			continue // tags, restores, replication: the object is the same
		}
		if r.S3 == nil || r.S3.Object.Key == nil {
			return nil, unreadable("has a record without s3.object.key")
		}
		// Keys come as in a form: "+" is a space, the rest percent-encoded.
		key, err := url.QueryUnescape(*r.S3.Object.Key)
		if err != nil {
			return nil, unreadable("has a key that is not URL-encoded: %v", err)
		}
		ev, err := checked(Event{Bucket: r.S3.Bucket.Name, Key: key, Sequencer: Sequencer(r.S3.Object.Sequencer), At: r.Time.Time})
		if err != nil {
			return nil, err
		}
		out = append(out, ev)
	}
	return out, nil
}

// bridged reads EventBridge's form, whose keys are not encoded.
func bridged(e envelope) ([]Event, error) {
	if e.Source != "aws.s3" {
		return nil, unreadable("comes from %.40q, not from a storage", e.Source)
	}
	if e.DetailType != "Object Created" && e.DetailType != "Object Deleted" {
		return nil, nil
	}
	if e.Detail.Object.Key == nil {
		return nil, unreadable("has no detail.object.key")
	}
	ev, err := checked(Event{Bucket: e.Detail.Bucket.Name, Key: *e.Detail.Object.Key, Sequencer: Sequencer(e.Detail.Object.Sequencer), At: e.Time.Time})
	if err != nil {
		return nil, err
	}
	return []Event{ev}, nil
}

// checked refuses what no storage can have sent.
func checked(e Event) (Event, error) {
	switch {
	case e.Bucket == "" || len(e.Bucket) > 255:
		return e, unreadable("has a record without a bucket's name")
	case e.Key == "" || len(e.Key) > maxKey:
		return e, unreadable("has a key of %d bytes; keys have 1 to %d", len(e.Key), maxKey)
	case !utf8.ValidString(e.Key):
		return e, unreadable("has a key that is not UTF-8")
	case strings.ContainsRune(e.Key, 0):
		return e, unreadable("has a key with a NUL character")
	case len(e.Sequencer) > maxSequencer || strings.Trim(string(e.Sequencer), "0123456789abcdefABCDEF") != "":
		return e, unreadable("has a sequencer that is no hexadecimal number of at most %d digits", maxSequencer)
	}
	return e, nil
}

func unreadable(format string, args ...any) error {
	return plat.Errorf(plat.ErrInvalid, "the message "+format, args...)
}
