// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"panal/internal/agent"
	"panal/internal/blob"
	"panal/internal/blob/dirblob"
	"panal/internal/blob/s3blob"
	"panal/internal/config"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/procrunner"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/postgres"
	"panal/internal/sqlstore/sqlite"
)

// This file is where adapters are chosen: one line each.

// openData opens the data directory, the databases and the object store.
func (a *App) openData(ctx context.Context) error {
	if err := os.MkdirAll(a.cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	// Whoever made the directory: from now on it is the server's alone.
	if err := os.Chmod(a.cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	l, err := a.takeData(ctx)
	if err != nil {
		return err
	}
	a.lock = l
	a.closers = append(a.closers, l.Close)
	uploads := filepath.Join(a.cfg.Data, dirUploads)
	if err := errors.Join(os.RemoveAll(uploads), os.Mkdir(uploads, 0o700)); err != nil {
		return fmt.Errorf("upload directory: %w", err)
	}
	if a.cfg.Database != "" {
		if a.control, err = openPostgres(ctx, a.cfg.Database, 16); err != nil {
			return err
		}
		a.lakeDB = a.control
	} else {
		if a.control, err = sqlite.Open(ctx, filepath.Join(a.cfg.Data, fileControl), "outbox", "control"); err != nil {
			return err
		}
		a.closers = append(a.closers, a.control.Close)
		if a.lakeDB, err = sqlite.Open(ctx, filepath.Join(a.cfg.Data, fileLake), "outbox", "lake"); err != nil {
			return err
		}
	}
	a.closers = append(a.closers, a.lakeDB.Close)
	d, err := a.openBlobs(ctx)
	if err != nil {
		return fmt.Errorf("object store: %w", err)
	}
	a.blobs = blob.New(d)
	a.closers = append(a.closers, a.blobs.Close)
	return a.noteEngines(ctx)
}

// openPostgres opens the database of --database, and names the flag where that fails.
func openPostgres(ctx context.Context, url string, maxConns int) (*sqlstore.DB, error) {
	db, err := postgres.Open(ctx, url, maxConns, "outbox", "control", "lake", "logs")
	if err != nil {
		return nil, fmt.Errorf("--database: %w", err)
	}
	return db, nil
}

func (a *App) openBlobs(ctx context.Context) (blob.Driver, error) {
	where, err := config.ParseBlob(a.cfg.Blob)
	switch {
	case err != nil:
		return nil, err
	case where.Bucket != "":
		d, err := s3blob.Open(ctx, a.bucketOptions(where))
		if err != nil {
			return nil, err
		}
		if !where.Presign {
			// No Presigner: Panal's own URLs. What came by URLs given before is still taken in.
			return struct {
				blob.Driver
				blob.Copier
			}{d, d}, nil
		}
		return d, nil
	case where.Dir == "":
		return dirblob.Open(ctx, filepath.Join(a.cfg.Data, dirBlobs))
	}
	if err := checkBlobDir(where.Dir); err != nil {
		return nil, err
	}
	l, err := lock(where.Dir, alone)
	if err != nil {
		return nil, err
	}
	a.closers = append(a.closers, l.Close)
	return dirblob.Open(ctx, where.Dir)
}

// bucketOptions is the bucket of --blob.
func (a *App) bucketOptions(where config.Blob) s3blob.Options {
	return s3blob.Options{
		Bucket: where.Bucket, Prefix: where.Prefix, Endpoint: where.Endpoint, PublicEndpoint: where.PublicEndpoint,
		Region: where.Region, VirtualHost: !where.PathStyle,
		AccessKey: a.cfg.S3AccessKey, SecretKey: a.cfg.S3SecretKey, SessionToken: a.cfg.S3Session,
		Log: a.log,
	}
}

// runnerConfig is the process runner's share of the configuration.
func runnerConfig(cfg config.Server, log *slog.Logger) procrunner.Config {
	c := procrunner.Config{
		Dir: cfg.Data, EnvDir: filepath.Join(cfg.Data, dirEnvs), EnvBytes: cfg.EnvironmentMB << 20,
		Python: cfg.Python, Profiles: map[string]procrunner.Profile{}, Log: log,
		Capacity: plat.Resources{MilliCPU: int64(cfg.CPU * 1000), Memory: cfg.MemoryMB << 20},
	}
	for image, python := range cfg.Profiles {
		c.Profiles[image] = procrunner.Profile{Python: python}
	}
	if cfg.PipIndexURL != "" {
		c.PipArgs = append(c.PipArgs, "--index-url", cfg.PipIndexURL)
	}
	if cfg.PipFindLinks != "" {
		c.PipArgs = append(c.PipArgs, "--find-links", cfg.PipFindLinks)
		c.Expose = append(c.Expose, cfg.PipFindLinks)
	}
	if cfg.PipNoIndex {
		c.PipArgs = append(c.PipArgs, "--no-index")
	}
	return c
}

func openRunner(cfg config.Server, log *slog.Logger) (runner.Runner, error) {
	return procrunner.New(runnerConfig(cfg, log))
}

// StopWorkloads ends every workload of a data directory that no server owns, and
// returns how many there were.
func StopWorkloads(ctx context.Context, data string, log *slog.Logger) (int, error) {
	l, err := lock(data, alone)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, plat.Errorf(plat.ErrNotFound, "there is no data directory %s", data)
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	r, err := procrunner.New(runnerConfig(config.Server{Data: data}, log))
	if err != nil {
		return 0, err
	}
	defer func() { _ = r.Close() }()
	all, err := r.List(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, s := range all {
		if s.Phase != runner.PhaseExited {
			n++
		}
	}
	return n, r.StopAll(ctx, 10*time.Second)
}

// AgentMain is the command `panal agent`: what runs beside user code.
func AgentMain(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return agent.Main(ctx, args, os.Environ(), stdout, stderr)
}

// AgentInitMain is the first stage of a workload: it builds the walls and becomes
// the agent.
func AgentInitMain(args []string) int { return procrunner.InitMain(args) }
