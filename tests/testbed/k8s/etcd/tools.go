//go:build tools

// Package tools names the programs that are built here.
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
)
