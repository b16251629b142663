// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"panal/internal/plat"
)

// ErrTooLarge tells that a batch's body is over MaxBatchBytes, packed or unpacked.
var ErrTooLarge = errors.New("the batch is too large")

// ReadBatch reads a batch's body: length bytes (-1: unknown) of JSON, packed as
// encoding says ("", "identity" or "zstd"). Memory is bounded (see Admit) before
// anything is read. ErrTooLarge, ErrUnsupported for another encoding, ErrInvalid
// for what is no batch; r's own errors pass through.
func (s *Service) ReadBatch(ctx context.Context, r io.Reader, length int64, encoding string) (Batch, error) {
	packed := encoding == "zstd"
	if !packed && encoding != "" && encoding != "identity" {
		return Batch{}, plat.Errorf(plat.ErrUnsupported, "the content encoding %q is not read; send zstd or none", encoding)
	}
	if length > MaxBatchBytes {
		return Batch{}, ErrTooLarge
	}
	need := length
	if length < 0 || packed {
		need = MaxBatchBytes
	}
	release, err := s.Admit(ctx, need)
	if err != nil {
		return Batch{}, err
	}
	defer release()
	body, err := io.ReadAll(io.LimitReader(r, MaxBatchBytes+1))
	if err != nil {
		return Batch{}, fmt.Errorf("read batch: %w", err)
	}
	if len(body) > MaxBatchBytes {
		return Batch{}, ErrTooLarge
	}
	if packed {
		if body, err = s.codec.inflate(body); err != nil {
			return Batch{}, err
		}
	}
	var b Batch
	if err := json.Unmarshal(body, &b); err != nil {
		if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return Batch{}, plat.InvalidField(te.Field, "is a %s", te.Value)
		}
		return Batch{}, plat.InvalidField("body", "is not JSON: %v", err)
	}
	return b, nil
}
