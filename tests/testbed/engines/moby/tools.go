//go:build tools

// Package tools names the programs that are built here.
package tools

import (
	_ "github.com/moby/moby/v2/cmd/dockerd"
	_ "github.com/moby/moby/v2/cmd/docker-proxy"
)
