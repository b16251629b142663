// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"

	"panal/internal/client"
	"panal/internal/plat"
)

type channelLinkCmd struct {
	channelArg
	Endpoint string `required:"" help:"The storage, as http(s)://HOST[:PORT]; one that the server's --link-endpoint allows."`
	Bucket   string `required:"" help:"Its bucket."`
	Prefix   string `help:"Only objects whose keys begin so."`
	Region   string `help:"Region; default us-east-1."`
	Queue    string `help:"URL of an SQS queue to which the storage sends its events; its endpoint must be allowed by --link-endpoint, too."`
	Feed     string `default:"" enum:",sqs,webhook,none" help:"How changes are learnt: sqs (the default with --queue), webhook (the default without: the storage posts events) or none (by comparing alone)."`
}

// Help is shown by panal channel link --help.
func (channelLinkCmd) Help() string {
	return `Makes the objects of a bucket the files of an empty channel. What other tools put
there becomes searchable by its user metadata and by filename, s3-key, s3-etag and s3-size;
overwriting makes another file, deleting ends it. What is there already is imported: see
panal feed status. The channel takes no uploads of its own, and Panal only reads the bucket.

Credentials that may read it come from the environment: PANAL_LINK_ACCESS_KEY and
PANAL_LINK_SECRET_KEY; without, the bucket is read as nobody. They are sealed.

With --queue events come from an SQS queue, as Amazon's S3 sends them there: received, acknowledged when
they are indexed, and kept as dead letters when they make no sense. Its credentials are the bucket's, or
PANAL_LINK_QUEUE_ACCESS_KEY and PANAL_LINK_QUEUE_SECRET_KEY.

With --feed webhook the answer has a URL and a secret, shown only once: have the storage
post its events there with "Authorization: Bearer SECRET". Events may be lost or late:
the channel is compared with the bucket all the time, and ends up the same.

  PANAL_LINK_ACCESS_KEY=… PANAL_LINK_SECRET_KEY=… \
    panal channel link photos --endpoint https://s3.example.com --bucket camera --prefix 2026/

  panal channel link photos --endpoint https://s3.eu-central-1.amazonaws.com --bucket camera \
    --queue https://sqs.eu-central-1.amazonaws.com/123456789012/camera-events`
}

// Run links a channel.
func (c *channelLinkCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	l, err := e.api.LinkChannel(e.ctx, id, client.NewLink{
		Endpoint: c.Endpoint, Region: c.Region, Bucket: c.Bucket, Prefix: c.Prefix, Feed: c.Feed, QueueURL: c.Queue,
		QueueAccessKey: os.Getenv("PANAL_LINK_QUEUE_ACCESS_KEY"), QueueSecretKey: os.Getenv("PANAL_LINK_QUEUE_SECRET_KEY"),
		AccessKey: os.Getenv("PANAL_LINK_ACCESS_KEY"), SecretKey: os.Getenv("PANAL_LINK_SECRET_KEY"),
	})
	if err != nil {
		return err
	}
	if l.QueueURL != "" {
		return e.print(l, []string{"CHANNEL", "BUCKET", "PREFIX", "QUEUE"}, [][]string{{l.Channel, l.Bucket, l.Prefix, l.QueueURL}})
	}
	return e.print(l, []string{"CHANNEL", "BUCKET", "PREFIX", "FEED URL", "FEED SECRET"}, [][]string{{l.Channel, l.Bucket, l.Prefix, l.FeedURL, l.FeedSecret}})
}

type channelUnlinkCmd struct {
	channelArg
	Yes bool `help:"Really do it; without, it is told what would go."`
}

// Help is shown by panal channel unlink --help.
func (*channelUnlinkCmd) Help() string {
	return `The channel's files end at once, with the link's credentials, its dead letters and what waits in a feed of
Panal's own. Nothing in the bucket changes, nor in an SQS queue. The channel is an ordinary, empty one then: it takes uploads,
or can be linked again (the same objects are other files then). While items of datasets refer to its files it stays linked,
and the answer names the datasets.`
}

// Run unlinks a channel.
func (c *channelUnlinkCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	u, err := e.api.UnlinkChannel(e.ctx, id, !c.Yes)
	if err != nil {
		return err
	}
	if !c.Yes {
		return plat.Errorf(plat.ErrInvalid, "channel %s has %d files of %s/%s, %d messages that wait and %d dead letters; add --yes to unlink it (the bucket's objects stay)",
			id, u.Files, u.Bucket, u.Prefix, u.Waiting, u.Dead)
	}
	return e.print(u, []string{"CHANNEL", "BUCKET", "FILES", "WAITING", "DEAD"}, [][]string{{
		u.Channel, u.Bucket + "/" + u.Prefix, fmt.Sprint(u.Files), fmt.Sprint(u.Waiting), fmt.Sprint(u.Dead),
	}})
}

type feedCmd struct {
	Status feedStatusCmd `cmd:"" help:"Show how a linked channel is doing: import, drift, lag, what waits, dead letters."`
	Dead   feedDeadCmd   `cmd:"" help:"List messages that led to nothing, with the reason."`
	Replay feedReplayCmd `cmd:"" help:"Try dead letters again."`
	Drop   feedDropCmd   `cmd:"" help:"Remove dead letters."`
	Pause  feedPauseCmd  `cmd:"" help:"Let a link rest: its messages wait."`
	Resume feedResumeCmd `cmd:"" help:"Let a link go on."`
}

func printLink(e *env, l client.Link, err error) error {
	if err != nil {
		return err
	}
	imported := "not yet"
	if l.ImportedAt != nil {
		imported = *l.ImportedAt
	}
	state := "runs"
	if l.Paused {
		state = "paused"
	}
	if l.FeedError != "" {
		state = "no feed: " + l.FeedError
	}
	oldest := "-"
	if l.Oldest != nil {
		oldest = *l.Oldest
	}
	return e.print(l, []string{"CHANNEL", "BUCKET", "STATE", "COMPARED", "LISTED", "DRIFT", "WAITING", "OLDEST", "LAG", "RATE", "BATCH", "WRITERS", "DEAD"}, [][]string{{
		l.Channel, l.Bucket + "/" + l.Prefix, state, imported, fmt.Sprint(l.Listed), fmt.Sprint(l.Drift), fmt.Sprint(l.Waiting), oldest,
		fmt.Sprintf("%.1fs", l.LagSeconds), fmt.Sprintf("%.1f/s", l.Rate), fmt.Sprint(l.LastBatch), fmt.Sprint(l.Concurrency), fmt.Sprint(l.Dead),
	}})
}

type feedStatusCmd struct{ channelArg }

// Help is shown by panal feed status --help.
func (feedStatusCmd) Help() string {
	return `COMPARED is when the channel had last been compared with the whole bucket ("not yet"
while what was there is being imported; LISTED is how far it has come), and DRIFT what that had
found out of step. WAITING are messages of the feed, OLDEST is when the first of them came (SQS does not tell), LAG is how
long the last one took from its arrival, RATE how many are done a second, BATCH how many the last batch had, WRITERS how
many batches may be written at a time (it follows the database), and DEAD are those that led to nothing: see panal feed dead.`
}

// Run shows a link.
func (c *feedStatusCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	l, err := e.api.Link(e.ctx, id)
	return printLink(e, l, err)
}

type feedPauseCmd struct{ channelArg }

// Run pauses a link.
func (c *feedPauseCmd) Run(e *env) error { return pauseLink(e, c.channelArg, true) }

type feedResumeCmd struct{ channelArg }

// Run resumes a link.
func (c *feedResumeCmd) Run(e *env) error { return pauseLink(e, c.channelArg, false) }

func pauseLink(e *env, arg channelArg, paused bool) error {
	id, err := arg.id(e)
	if err != nil {
		return err
	}
	l, err := e.api.PauseLink(e.ctx, id, paused)
	return printLink(e, l, err)
}

type feedDeadCmd struct {
	channelArg
	After int64 `help:"Go on after this letter."`
}

// Run lists a page of dead letters.
func (c *feedDeadCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	all, more, err := e.api.DeadLetters(e.ctx, id, c.After)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, l := range all {
		body := []rune(l.Body)
		rows[i] = []string{fmt.Sprint(l.ID), l.At, l.Reason, string(body[:min(60, len(body))])}
	}
	if err := e.print(all, []string{"LETTER", "AT", "REASON", "MESSAGE"}, rows); err != nil {
		return err
	}
	if more {
		_, err = fmt.Fprintf(e.stderr, "there are more: --after %d\n", all[len(all)-1].ID)
	}
	return err
}

// lettersArg names dead letters.
type lettersArg struct {
	channelArg
	Letters []int64 `arg:"" optional:"" help:"Ids of letters."`
	All     bool    `help:"All of them."`
}

func (a lettersArg) run(e *env, do func(channel string, ids []int64) (int64, error)) error {
	if a.All == (len(a.Letters) > 0) {
		return plat.Errorf(plat.ErrInvalid, "give the ids of letters, or --all")
	}
	id, err := a.id(e)
	if err != nil {
		return err
	}
	n, err := do(id, a.Letters)
	if err != nil {
		return err
	}
	return e.print(map[string]int64{"letters": n}, []string{"LETTERS"}, [][]string{{fmt.Sprint(n)}})
}

type feedReplayCmd struct{ lettersArg }

// Help is shown by panal feed replay --help.
func (feedReplayCmd) Help() string {
	return `Looks at the objects that the letters name, as if they had just come. What fails again
is a new letter with its new reason.`
}

// Run replays letters.
func (c *feedReplayCmd) Run(e *env) error {
	return c.run(e, func(id string, ids []int64) (int64, error) { return e.api.ReplayDead(e.ctx, id, ids) })
}

type feedDropCmd struct{ lettersArg }

// Run drops letters.
func (c *feedDropCmd) Run(e *env) error {
	return c.run(e, func(id string, ids []int64) (int64, error) { return e.api.DropDead(e.ctx, id, ids) })
}
