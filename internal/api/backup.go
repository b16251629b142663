// SPDX-License-Identifier: Apache-2.0

package api

import (
	"io"
	"log/slog"
	"net/http"

	"panal/internal/authz"
	"panal/internal/plat"
	"panal/internal/x/httpx"
)

// addBackup adds an operation of ours: the whole installation as one stream.
func (a *API) addBackup() {
	a.raw(operation{
		ID: "backup-installation", Method: http.MethodPost, Path: "/backup",
		Summary: "Stream a backup of the installation, everything of every organization, as a tar (operators only). What does not end with end.json is not whole. The keys that seal secrets are not in it",
		Tag:     "installation", Family: familyLake, Op: authz.Backup,
	}, a.backup)
}

func (a *API) backup(w http.ResponseWriter, r *http.Request) {
	if a.Backup == nil {
		a.fail(w, r, familyLake, plat.Errorf(plat.ErrUnsupported, "this server makes no backups"))
		return
	}
	out := &begun{w: httpx.IdleWriter(w, idleLimit), begin: func() {
		w.Header().Set("Content-Type", "application/x-tar")
		w.Header().Set("Content-Disposition", `attachment; filename="panal-backup.tar"`)
		w.WriteHeader(http.StatusOK)
	}}
	flush := func() { _ = http.NewResponseController(w).Flush() } // what can't be flushed comes later
	err := a.Backup(r.Context(), out, flush)
	switch {
	case err == nil:
	case !out.yes:
		a.fail(w, r, familyLake, err)
	default:
		if r.Context().Err() == nil {
			a.log.LogAttrs(r.Context(), slog.LevelError, "a backup broke off", slog.String(plat.LogRequest, requestID(r.Context())), slog.String(plat.LogError, err.Error()))
		}
		panic(http.ErrAbortHandler) // the client sees that the stream was cut
	}
}

// begun is a body whose answer begins with its first byte.
type begun struct {
	w     io.Writer
	begin func()
	yes   bool
}

// Write implements io.Writer.
func (b *begun) Write(p []byte) (int, error) {
	if !b.yes {
		b.yes = true
		b.begin()
	}
	return b.w.Write(p)
}
