// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"panal/internal/gitsource/gittest"
)

// cmdCommit commits the files of a directory to a branch of the script's git server,
// which wants the user bot with the token tok-3n, and sets $GIT and $COMMIT.
// commit REPOSITORY BRANCH DIRECTORY
func cmdCommit(ts *testscript.TestScript, _ bool, args []string) {
	s := get(ts)
	if s.git == nil {
		s.git = gittest.NewServer(s.t)
		s.git.User, s.git.Password = "bot", "tok-3n"
	}
	dir := ts.MkAbs(args[2])
	list, err := os.ReadDir(dir)
	ts.Check(err)
	var files []string
	for _, f := range list {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		ts.Check(err)
		files = append(files, f.Name(), string(text))
	}
	if _, err := os.Stat(filepath.Join(s.git.Dir, args[0])); err != nil {
		s.git.Init(args[0])
	}
	ts.Setenv("COMMIT", s.git.Commit(args[0], args[1], files...))
	ts.Setenv("GIT", s.git.URL+"/"+args[0])
}
