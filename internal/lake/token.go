// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"panal/internal/plat"
)

const maxToken = 48 << 10

func encodeToken(t pageToken) string {
	b, err := json.Marshal(t)
	if err != nil {
		panic(fmt.Sprintf("BUG: lake: page token: %v", err))
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken reads the token of a listing of the channel; a foreign or broken one
// is ErrInvalid. It is not signed: it says nothing that a caller could not ask for.
func ParseToken(channel plat.ChannelID, s string) (Search, error) {
	bad := plat.InvalidField("next_page_token", "is not a token of this channel's list; begin again without it")
	if len(s) > maxToken {
		return Search{}, bad
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return Search{}, bad
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var t pageToken
	if dec.Decode(&t) != nil {
		return Search{}, bad
	}
	if _, err := dec.Token(); err != io.EOF {
		return Search{}, bad
	}
	q, err := ParseQuery(t.Query)
	if err != nil || t.Channel != channel || t.After == nil || t.Limit < 1 {
		return Search{}, bad
	}
	for _, k := range t.Sort {
		sign := ""
		if k.Desc {
			sign = "-"
		}
		if keys, err := ParseSort(sign + k.Field); err != nil || len(keys) != 1 {
			return Search{}, bad
		}
	}
	if _, ok := ByUploadTime(t.Sort); len(t.Sort) > 8 || !ok && len(t.After.Values) != len(t.Sort) {
		return Search{}, bad
	}
	out := Search{Filter: Filter{Channel: t.Channel, Query: q}, Sort: t.Sort, After: t.After, Limit: t.Limit}
	if t.From != 0 || t.To != 0 {
		out.From, out.To = time.UnixMicro(t.From).UTC(), time.UnixMicro(t.To).UTC()
	}
	return out, nil
}
