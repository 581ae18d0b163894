//go:build tools

// Package tools names the programs that are built here.
package tools

import (
	_ "helm.sh/helm/v3/cmd/helm"
)
