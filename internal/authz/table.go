// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"maps"
	"sync"

	"panal/internal/authn"
)

// Operations. Read is for everyone in the organization; changes are for admins
// and developers, what ends in .admin for admins (data.md §3).
const (
	OrgRead   Op = "organization.read"
	OrgManage Op = "organization.manage" // create, list, change, suspend, delete
	OrgUsage  Op = "organization.usage"
	AuditList Op = "audit.list"
	Backup    Op = "installation.backup" // everything of every organization

	UserRead        Op = "user.read"
	UserAdmin       Op = "user.admin"
	TokenAdmin      Op = "token.admin" // listing too: the names of other people's tokens are theirs
	DatasourceRead  Op = "datasource.read"
	DatasourceAdmin Op = "datasource.admin"
	IPRuleAdmin     Op = "ip_rule.admin" // reading too: it tells where from to attack

	ChannelCreate Op = "channel.create"
	ChannelRead   Op = "channel.read"
	ChannelUpdate Op = "channel.update"
	ChannelDelete Op = "channel.delete"
	LinkAdmin     Op = "channel.link.admin" // credentials of other storages, and what the server asks of them
	FileUpload    Op = "file.upload"
	FileRead      Op = "file.read"
	FileUpdate    Op = "file.update"
	FileDelete    Op = "file.delete"

	BucketCreate     Op = "bucket.create"
	BucketRead       Op = "bucket.read" // and its files
	BucketUpdate     Op = "bucket.update"
	BucketDelete     Op = "bucket.delete"
	BucketFileUpload Op = "bucket_file.upload"
	BucketFileDelete Op = "bucket_file.delete"

	DatasetCreate Op = "dataset.create"
	DatasetRead   Op = "dataset.read"
	DatasetUpdate Op = "dataset.update"
	DatasetDelete Op = "dataset.delete"

	DefinitionCreate Op = "definition.create"
	DefinitionRead   Op = "definition.read"
	DefinitionUpdate Op = "definition.update"
	DefinitionDelete Op = "definition.delete"
	SourceDownload   Op = "definition.source"
	JobCreate        Op = "job.create"
	JobRead          Op = "job.read"
	JobUpdate        Op = "job.update"
	JobReport        Op = "job.report" // statistics
	JobResultRead    Op = "job.result.read"
	JobResultWrite   Op = "job.result.write"
	ModelCreate      Op = "model.create"
	ModelRead        Op = "model.read"
	ModelUpdate      Op = "model.update"
	ModelDownload    Op = "model.download"

	DeploymentCreate Op = "deployment.create"
	DeploymentRead   Op = "deployment.read"
	DeploymentUpdate Op = "deployment.update"
	DeploymentDelete Op = "deployment.delete"
	CodeCreate       Op = "code.create"
	CodeRead         Op = "code.read"
	CodeDelete       Op = "code.delete"
	CodeDownload     Op = "code.download"
	ServiceCreate    Op = "service.create"
	ServiceRead      Op = "service.read"
	ServiceUpdate    Op = "service.update"
	ServiceDelete    Op = "service.delete"
	EndpointCreate   Op = "endpoint.create"
	EndpointRead     Op = "endpoint.read"
	EndpointUpdate   Op = "endpoint.update"
	EndpointDelete   Op = "endpoint.delete"
	Infer            Op = "inference"

	InstanceTypeRead Op = "instance_type.read"

	LogIngest Op = "log.ingest"
	LogRead   Op = "log.read"

	SecretRead      Op = "secret.read" // without the values
	SecretValue     Op = "secret.value"
	SecretWrite     Op = "secret.write"
	RepositoryRead  Op = "repository.read"
	RepositoryWrite Op = "repository.write"

	// NotBuilt is the row of every operation of the documents that answers 501.
	NotBuilt Op = "not.built"
)

// Table returns the whole authorisation table, a copy.
func Table() map[Op]Row { return maps.Clone(table()) }

// table is asked for each request.
var table = sync.OnceValue(func() map[Op]Row { //nolint:gochecknoglobals // a constant
	everyone := []authn.Role{authn.RoleAdmin, authn.RoleDeveloper, authn.RoleRegular}
	admins := []authn.Role{authn.RoleAdmin}
	makers := []authn.Role{authn.RoleAdmin, authn.RoleDeveloper}
	read := Row{Roles: everyone}
	readInOrg := Row{Roles: everyone, Container: InOrg}
	write := Row{Roles: makers}
	admin := Row{Roles: []authn.Role{authn.RoleAdmin}}
	return map[Op]Row{
		OrgRead:   {Roles: everyone, Container: InOrg, Operators: AnyOrg},
		OrgManage: {Operators: OnlyByOperator},
		OrgUsage:  {Roles: admins, Operators: AnyOrg},
		AuditList: {Roles: admins, Operators: AnyOrg},
		Backup:    {Operators: OnlyByOperator},

		UserRead: read, UserAdmin: admin,
		TokenAdmin:     {Roles: admin.Roles, Self: true},
		DatasourceRead: read, DatasourceAdmin: admin,
		IPRuleAdmin: admin,

		ChannelCreate: write, ChannelRead: readInOrg, ChannelUpdate: write, ChannelDelete: write,
		LinkAdmin:  admin,
		FileUpload: {Roles: makers, Container: InOrg, Datasource: true},
		FileRead:   {Roles: everyone, Container: InOrg, Datasource: true},
		FileUpdate: write, FileDelete: write,

		BucketCreate: write, BucketRead: readInOrg, BucketUpdate: write, BucketDelete: write,
		BucketFileUpload: {Roles: makers, Container: InOrg}, BucketFileDelete: write,

		DatasetCreate: write, DatasetRead: readInOrg, DatasetUpdate: write, DatasetDelete: write,

		DefinitionCreate: write, DefinitionRead: read, DefinitionUpdate: write, DefinitionDelete: write,
		SourceDownload: {Roles: everyone, Container: OwnWork},
		JobCreate:      write, JobUpdate: write,
		JobRead:        {Roles: everyone, Container: OwnWork},
		JobReport:      {Roles: makers, Container: OwnWork},
		JobResultRead:  {Roles: everyone, Container: OwnWork},
		JobResultWrite: {Container: OwnWorkEnd},
		ModelCreate:    {Roles: makers, Container: OwnWork},
		ModelRead:      read, ModelUpdate: write,
		ModelDownload: {Roles: makers, Container: OwnWork},

		DeploymentCreate: write, DeploymentRead: read, DeploymentUpdate: write, DeploymentDelete: write,
		CodeCreate: write, CodeRead: read, CodeDelete: write,
		CodeDownload:  {Roles: makers, Container: OwnWork},
		ServiceCreate: write, ServiceRead: read, ServiceUpdate: write, ServiceDelete: write,
		EndpointCreate: write, EndpointRead: read, EndpointUpdate: write, EndpointDelete: write,
		Infer: read,

		InstanceTypeRead: read,

		LogIngest: {Container: OwnWorkEnd},
		LogRead:   read,

		SecretRead: read, SecretValue: write, SecretWrite: write,
		RepositoryRead: read, RepositoryWrite: write,

		NotBuilt: read,
	}
})
