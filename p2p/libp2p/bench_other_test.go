//go:build !unix

package libp2p

import (
	"testing"
	"time"
)

// processor is not known here.
func processor(*testing.B) time.Duration { return 0 }
