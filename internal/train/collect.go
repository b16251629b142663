// SPDX-License-Identifier: Apache-2.0

package train

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"panal/internal/plat"
)

// Collect deletes the objects below train/ that no row refers to and that are
// older than grace: what a crash between an upload and its row left, and results
// that were put after their job was deleted. It returns how many.
//
// A row is looked up for each old object, by key: nothing is held in memory, and
// an object whose row is made meanwhile is younger than any sensible grace.
func (s *Service) Collect(ctx context.Context, grace time.Duration) (int, error) {
	const batch = 1000
	limit, n := s.now().Add(-grace), 0
	orgs := map[string]bool{}
	for after, more := "", true; more; {
		infos, next, err := s.blobs.List(ctx, "train/", after, batch)
		if err != nil {
			return n, err
		}
		for _, info := range infos {
			after = info.Key
			if !info.ModTime.Before(limit) {
				continue
			}
			org, _, _ := strings.Cut(strings.TrimPrefix(info.Key, "train/"), "/")
			there, asked := orgs[org]
			if !asked {
				there = s.orgs == nil
				if !there {
					if there, err = s.orgs(ctx, plat.OrgID(org)); err != nil {
						return n, fmt.Errorf("collect %s: %w", info.Key, err)
					}
				}
				clear(orgs) // keys come organization by organization
				orgs[org] = there
			}
			if !there {
				continue
			}
			used, err := s.refers(ctx, info.Key)
			if err != nil {
				return n, fmt.Errorf("collect %s: %w", info.Key, err)
			}
			if used {
				continue
			}
			if err := s.blobs.Delete(ctx, info.Key); err != nil {
				return n, err
			}
			n++
		}
		more = next
	}
	return n, nil
}

// refers tells whether a row refers to the object under key. It knows the keys
// that sourceKey, Job.ResultKey and modelKey make; others are not ours to delete.
func (s *Service) refers(ctx context.Context, key string) (bool, error) {
	seg := strings.Split(key, "/") // train, organization, definition, …
	var err error
	switch {
	case len(seg) == 5 && seg[4] == "source":
		n, bad := strconv.Atoi(seg[3])
		if bad != nil {
			return true, nil //nolint:nilerr // no key of ours
		}
		_, err = s.store.Version(ctx, plat.JobDefinitionID(seg[2]), n)
	case len(seg) == 6 && seg[3] == "jobs":
		_, err = s.store.Job(ctx, plat.JobID(seg[4]))
	case len(seg) == 6 && seg[3] == "models":
		_, err = s.store.Model(ctx, plat.ModelID(seg[4]))
	default:
		return true, nil
	}
	if errors.Is(err, plat.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
