// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"crypto/rand"
	"os"
	"testing"
)

// bucketURL returns a --blob of the script's own: a prefix in the bucket of the S3
// server that scripts/with-s3 started. The credentials are in the environment.
func bucketURL(t *testing.T) string {
	t.Helper()
	url := os.Getenv("PANAL_TEST_S3")
	if url == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("PANAL_TEST_S3 is not set: run the tests under scripts/with-s3 (make test does)")
		}
		t.Skip("PANAL_TEST_S3 is not set: scripts/with-s3 go test … starts a server")
	}
	return url + "&prefix=" + rand.Text()
}
