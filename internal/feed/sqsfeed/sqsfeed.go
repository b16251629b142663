// SPDX-License-Identifier: Apache-2.0

// Package sqsfeed is a feed whose messages are in an SQS queue: where Amazon's S3, and
// what is like it, send their event notifications.
package sqsfeed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"panal/internal/feed"
	"panal/internal/plat"
)

// Options says which queue, and as whom.
type Options struct {
	// Queue is its URL; the endpoint is that without the path.
	Queue string
	// Region is empty for the one that an Amazon URL names, else us-east-1.
	Region               string
	AccessKey, SecretKey string
	SessionToken         string // may be empty
	// Lease is how long a received message is not received again.
	Lease time.Duration
}

const (
	// most is how many messages SQS gives, takes or changes in one call.
	most = 10
	// maxWait is the longest that SQS lets a receiver wait.
	maxWait = 20 * time.Second
	// callLimit ends a call that the service does not answer, beyond its wait.
	callLimit = 10 * time.Second
	// maxLease is the longest lease that SQS has.
	maxLease = 12 * time.Hour
)

// Source is one queue.
type Source struct {
	queue  string
	lease  time.Duration
	client *sqs.Client
	http   *http.Transport
	life   context.Context //nolint:containedctx // ends with Close
	close  context.CancelFunc
}

var _ feed.Source = (*Source)(nil)

// regionOf finds the region in an Amazon endpoint.
var regionOf = regexp.MustCompile(`^sqs\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$`)

// Open returns the feed. It asks nothing.
func Open(opt Options) (*Source, error) {
	u, err := url.Parse(opt.Queue)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") == "" || u.RawQuery != "" || u.User != nil {
		return nil, plat.InvalidField("queue_url", "must be the URL of an SQS queue: http(s)://HOST[:PORT]/ACCOUNT/NAME")
	}
	region := opt.Region
	if m := regionOf.FindStringSubmatch(u.Hostname()); region == "" && m != nil {
		region = m[1]
	}
	if region == "" {
		region = "us-east-1"
	}
	t := &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: callLimit, KeepAlive: 15 * time.Second}).DialContext,
		// Long polls hold a connection each.
		MaxIdleConnsPerHost: 64, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: callLimit,
	}
	s := &Source{queue: opt.Queue, lease: min(opt.Lease, maxLease), http: t}
	s.life, s.close = context.WithCancel(context.Background())
	s.client = sqs.New(sqs.Options{
		BaseEndpoint: aws.String(u.Scheme + "://" + u.Host), Region: region,
		Credentials: credentials.NewStaticCredentialsProvider(opt.AccessKey, opt.SecretKey, opt.SessionToken),
		// The endpoint is on the administrator's list; where it sends us is not.
		HTTPClient: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		// Whoever asks tries again, and knows what it may wait.
		RetryMaxAttempts: 2,
		AppID:            "panal",
	})
	return s, nil
}

// call bounds a call, and ends it with the feed.
func (s *Source) call(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	stop := context.AfterFunc(s.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// Receive implements feed.Source. Up to ten messages come in one call of SQS; more than
// those are asked for only as long as there are some at once.
func (s *Source) Receive(ctx context.Context, limit int, wait time.Duration) ([]feed.Message, error) {
	var all []feed.Message
	size := 0
	for end := time.Now().Add(wait); len(all) < limit && size < feed.MaxReceive; {
		seconds := int32(0)
		if len(all) == 0 {
			seconds = int32(min(max(time.Until(end), 0), maxWait).Round(time.Second) / time.Second)
		}
		got, err := s.receive(ctx, min(limit-len(all), most), seconds)
		all = append(all, got...)
		for _, m := range got {
			size += len(m.Body)
		}
		switch {
		case err != nil && len(all) == 0:
			return nil, err
		case err != nil, len(got) == 0 && len(all) > 0:
			return all, nil //nolint:nilerr // the next call tells of the error
		case len(got) == 0 && !time.Now().Before(end):
			return nil, nil
		case len(got) == 0 && seconds == 0: // what is left of the wait is less than SQS can count
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-s.life.Done():
			case <-time.After(min(time.Until(end), 100*time.Millisecond)):
			}
		}
	}
	return all, nil
}

func (s *Source) receive(ctx context.Context, limit int, seconds int32) ([]feed.Message, error) {
	ctx, cancel := s.call(ctx, callLimit+time.Duration(seconds)*time.Second)
	defer cancel()
	out, err := s.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &s.queue, MaxNumberOfMessages: int32(limit), WaitTimeSeconds: seconds, VisibilityTimeout: int32(s.lease / time.Second),
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{
			types.MessageSystemAttributeNameApproximateReceiveCount, types.MessageSystemAttributeNameSentTimestamp,
		},
	})
	if err != nil {
		return nil, translate(ctx, err)
	}
	all := make([]feed.Message, 0, len(out.Messages))
	for _, m := range out.Messages {
		f := feed.Message{Handle: aws.ToString(m.ReceiptHandle), Body: []byte(aws.ToString(m.Body))}
		// Attributes that a server leaves out are not known.
		f.Receipts, _ = strconv.Atoi(m.Attributes[string(types.MessageSystemAttributeNameApproximateReceiveCount)])
		if ms, err := strconv.ParseInt(m.Attributes[string(types.MessageSystemAttributeNameSentTimestamp)], 10, 64); err == nil {
			f.Sent = time.UnixMilli(ms).UTC()
		}
		all = append(all, f)
	}
	return all, nil
}

// Ack implements feed.Source.
func (s *Source) Ack(ctx context.Context, handles []string) error {
	return s.each(ctx, handles, func(ctx context.Context, part []string) ([]types.BatchResultErrorEntry, error) {
		in := &sqs.DeleteMessageBatchInput{QueueUrl: &s.queue}
		for i, h := range part {
			in.Entries = append(in.Entries, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: aws.String(h)})
		}
		out, err := s.client.DeleteMessageBatch(ctx, in)
		if err != nil {
			return nil, err
		}
		return out.Failed, nil
	})
}

// Extend implements feed.Source.
func (s *Source) Extend(ctx context.Context, handles []string, d time.Duration) error {
	seconds := int32(min(max(d, 0), maxLease).Round(time.Second) / time.Second)
	return s.each(ctx, handles, func(ctx context.Context, part []string) ([]types.BatchResultErrorEntry, error) {
		in := &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &s.queue}
		for i, h := range part {
			in.Entries = append(in.Entries, types.ChangeMessageVisibilityBatchRequestEntry{
				Id: aws.String(strconv.Itoa(i)), ReceiptHandle: aws.String(h), VisibilityTimeout: seconds,
			})
		}
		out, err := s.client.ChangeMessageVisibilityBatch(ctx, in)
		if err != nil {
			return nil, err
		}
		return out.Failed, nil
	})
}

// each does ten handles at a time. What SQS says was our fault, one by one, is a handle
// that is no longer good: that is no error here.
func (s *Source) each(ctx context.Context, handles []string, do func(context.Context, []string) ([]types.BatchResultErrorEntry, error)) error {
	for part := range slices.Chunk(handles, most) {
		ctx, cancel := s.call(ctx, callLimit)
		failed, err := do(ctx, part)
		err = translate(ctx, err)
		cancel()
		if err != nil {
			return err
		}
		for _, f := range failed {
			if !f.SenderFault {
				return plat.Errorf(plat.ErrUnavailable, "the queue did not do all: %s: %s", aws.ToString(f.Code), aws.ToString(f.Message))
			}
		}
	}
	return nil
}

// Backlog implements feed.Source. SQS counts approximately, and does not tell how old the
// oldest message is.
func (s *Source) Backlog(ctx context.Context) (feed.Backlog, error) {
	ctx, cancel := s.call(ctx, callLimit)
	defer cancel()
	names := []types.QueueAttributeName{
		types.QueueAttributeNameApproximateNumberOfMessages, types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		types.QueueAttributeNameApproximateNumberOfMessagesDelayed,
	}
	out, err := s.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &s.queue, AttributeNames: names})
	if err != nil {
		return feed.Backlog{}, translate(ctx, err)
	}
	var b feed.Backlog
	for _, name := range names {
		n, _ := strconv.ParseInt(out.Attributes[string(name)], 10, 64) // what is left out is none
		b.Messages += n
	}
	return b, nil
}

// Close implements feed.Source.
func (s *Source) Close() error {
	s.close()
	s.http.CloseIdleConnections()
	return nil
}

// translate gives an error of the service its kind.
func translate(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		err = errors.Join(ctx.Err(), err)
	}
	var missing *types.QueueDoesNotExist
	var answer interface{ ErrorCode() string }
	kind := plat.ErrUnavailable
	switch {
	case errors.As(err, &missing):
		kind = plat.ErrNotFound
	case errors.As(err, &answer) && slices.Contains([]string{
		"AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException", "InvalidSecurity",
	}, answer.ErrorCode()):
		kind = plat.ErrForbidden
	}
	return fmt.Errorf("queue: %w: %w", kind, err)
}
