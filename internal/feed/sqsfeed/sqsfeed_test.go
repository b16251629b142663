// SPDX-License-Identifier: Apache-2.0

package sqsfeed_test

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"panal/internal/feed"
	"panal/internal/feed/feedtest"
	"panal/internal/feed/sqsfeed"
	"panal/internal/plat"
)

const key = "test"

// queue makes a queue on the server that scripts/with-sqs started.
func queue(t *testing.T) (src *sqsfeed.Source, send func([]byte)) {
	t.Helper()
	endpoint := os.Getenv("PANAL_TEST_SQS")
	if endpoint == "" {
		if os.Getenv("CI") == "" {
			t.Skip("PANAL_TEST_SQS is not set: scripts/with-sqs go test … starts a server")
		}
		t.Fatal("PANAL_TEST_SQS is not set: run the tests under scripts/with-sqs (make test does)")
	}
	raw := sqs.New(sqs.Options{BaseEndpoint: &endpoint, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider(key, key, "")})
	made, err := raw.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("q-" + strings.ToLower(rand.Text()))})
	if err != nil {
		t.Fatal(err)
	}
	// The server names itself by a host that need not resolve.
	_, path, _ := strings.Cut(strings.TrimPrefix(*made.QueueUrl, "http://"), "/")
	url := endpoint + "/" + path
	src, err = sqsfeed.Open(sqsfeed.Options{Queue: url, AccessKey: key, SecretKey: key, Lease: feedtest.Lease})
	if err != nil {
		t.Fatal(err)
	}
	return src, func(body []byte) {
		t.Helper()
		if _, err := raw.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String(string(body))}); err != nil {
			t.Error(err)
		}
	}
}

func TestContract(t *testing.T) {
	feedtest.Run(t, feedtest.Harness{New: func(t *testing.T) (feed.Source, func([]byte)) { return queue(t) }})
}

func TestWhatIsNoQueue(t *testing.T) {
	for _, url := range []string{"", "queue", "ftp://host/1/q", "http://host", "http://host/", "http://user@host/1/q", "http://host/1/q?x=1"} {
		if _, err := sqsfeed.Open(sqsfeed.Options{Queue: url}); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("Open(%q) = %v", url, err)
		}
	}
	src, _ := queue(t)
	defer func() { _ = src.Close() }()
	gone, err := sqsfeed.Open(sqsfeed.Options{Queue: os.Getenv("PANAL_TEST_SQS") + "/000000000000/nothing", AccessKey: key, SecretKey: key, Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gone.Receive(t.Context(), 1, 0); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("Receive from no queue = %v", err)
	}
}

// A server that answers with an error, or sends us elsewhere, is told by its kind; nobody is asked
// who is not on the list.
func TestErrorsOfTheService(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	for what, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"denied": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-amz-json-1.0")
			w.Header().Set("X-Amzn-Errortype", "AccessDeniedException")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"__type":"AccessDeniedException","message":"no"}`))
		}, plat.ErrForbidden},
		"broken": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, plat.ErrUnavailable},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, plat.ErrUnavailable},
	} {
		t.Run(what, func(t *testing.T) {
			srv := httptest.NewServer(c.answer)
			defer srv.Close()
			src, err := sqsfeed.Open(sqsfeed.Options{Queue: srv.URL + "/1/q", AccessKey: key, SecretKey: key, Lease: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = src.Close() }()
			if _, err := src.Receive(t.Context(), 1, 0); !errors.Is(err, c.want) {
				t.Errorf("Receive = %v", err)
			}
			if err := src.Ack(t.Context(), []string{"h"}); !errors.Is(err, c.want) {
				t.Errorf("Ack = %v", err)
			}
			if _, err := src.Backlog(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("Backlog = %v", err)
			}
		})
	}
}
