package access

import (
	"errors"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
)

func TestDefaultDeny(t *testing.T) {
	const alice, bob = peer.ID("alice"), peer.ID("bob")
	var c Control
	c.Set("closed", Rule{})
	c.Set("listed", Rule{Peers: []peer.ID{alice, alice}})
	c.Set("open", Rule{Any: true})
	for _, tc := range []struct {
		service string
		p       peer.ID
		want    error
	}{
		{"unknown", alice, ErrNoRule},
		{"closed", alice, ErrNotAllowed},
		{"listed", alice, nil},
		{"listed", bob, ErrNotAllowed},
		{"listed", "", ErrNotAllowed},
		{"open", bob, nil},
		{"open", "", ErrNotAllowed}, // a connection without an identity is nobody's
		{"", alice, ErrNoRule},
		{"LISTED", alice, ErrNoRule}, // names are exact
	} {
		if err := c.Check(tc.service, tc.p); !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
			t.Errorf("Check(%q, %q) = %v, want %v", tc.service, tc.p, err, tc.want)
		}
	}
	c.Remove("open")
	if err := c.Check("open", bob); !errors.Is(err, ErrNoRule) {
		t.Errorf("after Remove: %v", err)
	}
}

func TestRuleIsACopy(t *testing.T) {
	var c Control
	peers := []peer.ID{"alice"}
	c.Set("s", Rule{Peers: peers})
	peers[0] = "mallory"
	if c.Check("s", "alice") != nil || c.Check("s", "mallory") == nil {
		t.Fatal("a caller changed the rule")
	}
}

func TestKnows(t *testing.T) {
	var c Control
	c.Set("s", Rule{Peers: []peer.ID{"alice"}})
	if !c.Knows("alice") || c.Knows("bob") || c.Knows("") {
		t.Fatal("who is known is wrong")
	}
	c.Set("open", Rule{Any: true})
	if !c.Knows("bob") {
		t.Fatal("a service for all is open to bob")
	}
}
