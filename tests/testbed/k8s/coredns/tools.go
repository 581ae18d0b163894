//go:build tools

// Package tools names the programs that are built here.
package tools

import (
	_ "github.com/coredns/coredns"
)
