// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"panal/internal/blob/s3blob"
	"panal/internal/config"
	"panal/internal/plat"
	"panal/internal/sqlstore/postgres"
	"panal/internal/x/accesslog"
	"panal/internal/x/keyring"
)

// preflightLimit is how long database and bucket may take to answer.
const preflightLimit = 30 * time.Second

// preflight finds what this server could not run with before it asks for the data
// directory. In a hand-over the server before this one gives its place up as soon as that
// is asked for; until then it goes on when this one ends (docs/adr/0025-*).
func (a *App) preflight(ctx context.Context) (err error) {
	if err := checkEngines(a.cfg); err != nil {
		return err
	}
	if a.cfg.TLSListen != "" {
		if a.cert, err = openCertificate(a.cfg.TLSCert, a.cfg.TLSKey, a.now, a.log); err != nil {
			return err
		}
	}
	if err := keyring.Check(keyFile(a.cfg)); err != nil {
		return err
	}
	if a.cfg.AccessLog != "" {
		if err := accesslog.Check(a.cfg.AccessLog); err != nil {
			return plat.InvalidField("access-log", "%v", err)
		}
	}
	where, err := config.ParseBlob(a.cfg.Blob)
	if err == nil && where.Dir != "" {
		err = checkBlobDir(where.Dir)
	}
	if err != nil {
		return fmt.Errorf("object store: %w", err)
	}
	if a.cfg.LockWait == 0 {
		return nil // nobody is there to go on, and what follows opens them at once
	}
	// What hangs is worse than what refuses: no other replacement could be begun.
	ctx, cancel := context.WithTimeout(ctx, preflightLimit)
	defer cancel()
	if a.cfg.Database != "" {
		if err := postgres.Ping(ctx, a.cfg.Database); err != nil {
			return fmt.Errorf("--database: %w", err)
		}
	}
	if where.Bucket != "" {
		d, err := s3blob.Open(ctx, a.bucketOptions(where))
		if err == nil {
			err = d.Close()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = plat.Errorf(plat.ErrUnavailable, "bucket %s does not answer", where.Bucket)
		}
		if err != nil {
			return fmt.Errorf("object store: %w", err)
		}
	}
	return nil
}

// checkBlobDir makes a directory of files, and refuses one that others may enter.
func checkBlobDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return plat.Errorf(plat.ErrInvalid, "%s can be entered by others than the server's user, user code among them; chmod 700 it", dir)
	}
	return nil
}
