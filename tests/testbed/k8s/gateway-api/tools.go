//go:build tools

// Package tools pins the module whose config/crd/standard is installed in clusters.
package tools

import (
	_ "sigs.k8s.io/gateway-api/pkg/consts"
)
