//go:build tools

// Package tools names the programs that are built here.
package tools

import (
	_ "sigs.k8s.io/prometheus-adapter/cmd/adapter"
)
