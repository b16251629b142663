// SPDX-License-Identifier: Apache-2.0

package train_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
	"panal/internal/train"
)

type rig struct {
	t     *testing.T
	svc   *train.Service
	store *sqlstore.Training
	blobs *blob.Store
	org   plat.OrgID
	users []string      // who uses models
	ahead time.Duration // of the clock
	fail  error         // what the store answers to CreateVersion and CreateModel
}

// refusing is a store that can refuse new rows.
type refusing struct {
	train.Store
	r *rig
}

func (s refusing) CreateVersion(ctx context.Context, v train.Version) error {
	if s.r.fail != nil {
		return s.r.fail
	}
	return s.Store.CreateVersion(ctx, v)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	db := sqlstoretest.SQLite(t)
	orgs := sqlstore.NewOrgs(db)
	o, err := org.NewService(orgs, orgs, plat.SystemClock, "").Create(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, store: sqlstore.NewTraining(db), blobs: blob.New(memblob.New()), org: o.ID}
	r.svc = train.NewService(train.Options{
		Store: refusing{r.store, r}, Blobs: r.blobs, Now: func() time.Time { return plat.SystemClock().Add(r.ahead) },
		ModelUsers: func(_ context.Context, _ plat.OrgID, models []plat.ModelID) ([]string, error) {
			if len(models) == 0 {
				return nil, nil
			}
			return r.users, nil
		},
		HasOrg: func(_ context.Context, id plat.OrgID) (bool, error) { return id == r.org, nil },
	})
	if _, err := r.svc.CreateDefinition(t.Context(), r.org, "leaf"); err != nil {
		t.Fatal(err)
	}
	return r
}

func zipFile(t *testing.T) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	if _, err := zw.Create("train.py"); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

func (r *rig) version() (train.Version, error) {
	r.t.Helper()
	return r.svc.CreateVersion(r.t.Context(), r.org, "leaf", train.VersionParams{Handler: "train:handler", Image: "a/b:1"}, zipFile(r.t))
}

func (r *rig) keys() []string {
	r.t.Helper()
	infos, _, err := r.blobs.List(r.t.Context(), "", "", 100)
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, i := range infos {
		out = append(out, i.Key)
	}
	return out
}

// TestARefusedRowLeavesNoObject, but one of unknown outcome keeps it: the row may
// be there, and a row without its object must not be.
func TestARefusedRowLeavesNoObject(t *testing.T) {
	r := newRig(t)
	r.fail = plat.NotFound("job definition", "leaf")
	if _, err := r.version(); !errors.Is(err, plat.ErrNotFound) || len(r.keys()) != 0 {
		t.Errorf("refused: %v, objects %v", err, r.keys())
	}
	r.fail = errors.New("connection lost at commit")
	if _, err := r.version(); err == nil || len(r.keys()) != 1 {
		t.Errorf("unknown: %v, objects %v", err, r.keys())
	}
}

func TestCollectDeletesOnlyOldObjectsWithoutARow(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	v, err := r.version()
	if err != nil {
		t.Fatal(err)
	}
	j, err := r.svc.CreateJob(ctx, r.org, "leaf", v.Number, "", train.JobParams{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.svc.CreateModel(ctx, r.org, "leaf", "", train.ModelParams{}, zipFile(t))
	if err != nil {
		t.Fatal(err)
	}
	base := strings.TrimSuffix(v.Source, "1/source")
	stranger := "train/1/2/3/source" // of records that are lost
	garbage := []string{base + "7/source", base + "jobs/1712000000044/result.zip", base + "models/1720000000055/model.zip"}
	for _, key := range append([]string{j.ResultKey(), "train/other", stranger}, garbage...) {
		if _, err := r.blobs.Put(ctx, key, strings.NewReader("x"), 1, blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := r.svc.Collect(ctx, time.Hour); err != nil || n != 0 {
		t.Errorf("young objects: %d, %v", n, err)
	}
	r.ahead = 2 * time.Hour
	if n, err := r.svc.Collect(ctx, time.Hour); err != nil || n != len(garbage) {
		t.Errorf("Collect = %d, %v, want %d", n, err, len(garbage))
	}
	left := strings.Join(r.keys(), " ")
	for _, want := range []string{v.Source, j.ResultKey(), m.Object, "train/other", stranger} {
		if !strings.Contains(left, want) {
			t.Errorf("%s is gone; left: %s", want, left)
		}
	}
}

func TestModelsInUseKeepTheirDefinition(t *testing.T) {
	r := newRig(t)
	if _, err := r.svc.CreateModel(t.Context(), r.org, "leaf", "", train.ModelParams{}, zipFile(t)); err != nil {
		t.Fatal(err)
	}
	r.users = []string{"service ser-7be2d1904c3f4a58"}
	if _, err := r.svc.DeleteDefinition(t.Context(), r.org, "leaf"); !errors.Is(err, plat.ErrConflict) || !strings.Contains(err.Error(), "ser-7be2") {
		t.Errorf("delete = %v, want ErrConflict that names the service", err)
	}
	r.users = nil
	if _, err := r.svc.DeleteDefinition(t.Context(), r.org, "leaf"); err != nil {
		t.Error(err)
	}
}
