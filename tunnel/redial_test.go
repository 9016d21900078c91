package tunnel

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

// Whoever waited two seconds for a peer that takes connections and says nothing
// waited until the attempt had ended.
func TestRegressionWaitIsABound(t *testing.T) {
	b := newNode(t)
	silent := service(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	nobody := newHost(t).ID()
	b.Remember(nobody, silent.Encapsulate(ma.StringCast("/p2p/"+nobody.String())))
	begun := time.Now()
	_, err := b.Open(t.Context(), nobody, "echo", func(c *ForwardConfig) { c.Wait = 100 * time.Millisecond })
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	if !errors.Is(err, &Error{Reason: ReasonUnreachable}) || !strings.Contains(err.Error(), noAnswer) {
		t.Error(err)
	}
}
