// SPDX-License-Identifier: Apache-2.0

package link

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"panal/internal/lake"
	"panal/internal/lake/query"
	"panal/internal/plat"
)

// mark tells apart all that a look can find at a key. An overwrite with the same
// bytes, type, metadata and second, without versions, is the same object: nobody can tell.
func (o Object) mark() string {
	h := sha256.New()
	put := func(s string) { h.Write(fmt.Appendf(nil, "%d:%s", len(s), s)) }
	put(o.Version)
	put(o.ETag)
	put(strconv.FormatInt(o.Size, 10))
	put(strconv.FormatInt(o.Modified.Unix(), 10))
	put(o.ContentType)
	for _, k := range sortedKeys(o.Metadata) {
		put(k)
		put(o.Metadata[k])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// same tells whether a listed object is what a row says, as far as a listing tells.
func (o Object) same(r Row) bool {
	return r.File != "" && o.ETag == r.ETag && o.Size == r.Size && o.Modified.Unix() == r.Modified.Unix()
}

// Names of the metadata that a linked file has besides the object's own.
const (
	metaFilename = "filename"
	metaKey      = "s3-key"
	metaETag     = "s3-etag"
	metaSize     = "s3-size"
)

const (
	maxETag        = 256
	maxContentType = 1 << 10
)

// file makes the file that an object is. What breaks the rules of metadata is left out:
// a strange label is no reason to hide a file.
func (o Object) file(channel plat.ChannelID, now time.Time) lake.File {
	f := lake.File{
		ID: plat.NewFileID(now), Channel: channel, Size: o.Size, ETag: o.ETag, ContentType: o.ContentType, Metadata: lake.Metadata{},
	}
	if f.ContentType == "" || len(f.ContentType) > maxContentType || !utf8.ValidString(f.ContentType) || strings.ContainsRune(f.ContentType, 0) {
		f.ContentType = "application/octet-stream"
	}
	// Whole metadata passes at once, nearly always; one by one only where it doesn't.
	own := lake.Metadata{
		metaKey: escape(o.Key), metaETag: escape(o.ETag), metaSize: strconv.FormatInt(o.Size, 10),
	}
	if name := path.Base(o.Key); name != "." && name != "/" {
		own[metaFilename] = escape(name)
	}
	maps.Copy(f.Metadata, own)
	for k, v := range o.Metadata {
		f.Metadata[query.Fold(k)] = v
	}
	if len(f.Metadata) == len(own)+len(o.Metadata) && f.Metadata.Check() == nil {
		return f
	}
	f.Metadata = lake.Metadata{}
	user := lake.Metadata{}
	for _, k := range sortedKeys(o.Metadata) {
		user[query.Fold(k)] = o.Metadata[k]
	}
	for _, m := range []lake.Metadata{user, own} {
		for _, k := range sortedKeys(m) {
			if _, taken := f.Metadata.Get(lake.IndexKey(k)); taken {
				continue
			}
			f.Metadata[k] = m[k]
			if f.Metadata.Check() != nil {
				delete(f.Metadata, k)
			}
		}
	}
	return f
}

// escape writes a text so that decoding it, as metadata is decoded, gives it back.
func escape(s string) string { return strings.ReplaceAll(s, "%", "%25") }
