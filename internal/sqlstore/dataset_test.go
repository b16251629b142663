// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"testing"

	"panal/internal/dataset"
	"panal/internal/dataset/datasettest"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

func TestDatasetsSQLite(t *testing.T) {
	datasettest.Run(t, func(t *testing.T) dataset.Store { return sqlstore.NewDatasets(sqlstoretest.SQLite(t)) })
}

func TestDatasetsPostgres(t *testing.T) {
	datasettest.Run(t, func(t *testing.T) dataset.Store { return sqlstore.NewDatasets(sqlstoretest.Postgres(t)) })
}
