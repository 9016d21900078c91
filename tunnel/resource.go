package tunnel

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
)

// What may be said of libp2p's resource limits. Of our own, all that helps; a peer
// tells, and is told, of what kind a limit is, and no more.

const (
	tooManyStreams = "a resource limit of the node: too many streams at once"
	tooManyConns   = "a resource limit of the node: too many connections at once"
	tooFast        = "a resource limit of the node: too many in a short time; try again later"
)

// told is what a peer is told of an error.
func (e *Error) told() string {
	if errors.Is(e.Err, network.ErrResourceLimitExceeded) {
		return tooManyStreams
	}
	return e.Detail
}

// resourceLimit says which limit of this host's resource manager an error tells of,
// and how high it is; "" if of none.
func resourceLimit(err error) string {
	if !errors.Is(err, network.ErrResourceLimitExceeded) {
		return ""
	}
	scope, cause := blocked(err)
	if cause == nil {
		return "a resource limit of this node: " + oneLine(err.Error())
	}
	what, unit := "cannot reserve memory", " bytes"
	if _, memory := cause.(*rcmgr.ErrMemoryLimitExceeded); !memory {
		what, unit = strings.TrimSuffix(cause.Error(), ": "+network.ErrResourceLimitExceeded.Error()), ""
	}
	limit := "is reached"
	// The errors keep the number to themselves.
	if n := reflect.ValueOf(cause).Elem().FieldByName("limit"); n.CanInt() {
		limit = fmt.Sprintf("is %d%s", n.Int(), unit)
	}
	return fmt.Sprintf("this node %s: its limit %s %s; close connections, or try again later", what, scopeName(scope), limit)
}

// blocked finds the error of the scope that said no, and the name of that scope,
// which only the text of the layer around it has.
func blocked(err error) (scope string, cause error) {
	var inner []error
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		inner = []error{e.Unwrap()}
	case interface{ Unwrap() []error }:
		inner = e.Unwrap()
	}
	for _, in := range inner {
		switch in.(type) {
		case *rcmgr.ErrStreamOrConnLimitExceeded, *rcmgr.ErrMemoryLimitExceeded:
			return strings.TrimSuffix(strings.TrimSuffix(err.Error(), in.Error()), ": "), in
		}
		if scope, cause = blocked(in); cause != nil {
			return scope, cause
		}
	}
	return "", nil
}

// scopeName is what a scope of libp2p's is the limit for.
func scopeName(scope string) string {
	what, peer, ofPeer := strings.Cut(scope, ".peer:")
	kind, name, _ := strings.Cut(what, ":")
	switch {
	case scope == "system":
		return "in all"
	case scope == "transient":
		return "for what is still being set up"
	case kind == "peer":
		return "with peer " + name
	case (kind == "protocol" || kind == "service") && ofPeer:
		return fmt.Sprintf("for %s with peer %s", name, peer)
	case kind == "protocol" || kind == "service":
		return "for " + name
	case strings.HasPrefix(scope, "conn-"), strings.HasPrefix(scope, "stream-"):
		return "for one " + strings.TrimRight(strings.TrimRight(scope, "0123456789"), "-")
	}
	return fmt.Sprintf("%q", scope)
}
