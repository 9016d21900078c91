package rpc

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/libp2p/go-libp2p/core/network"
)

// limitText is the text of an error of a resource limit of this host: which limit it
// is, and how high. libp2p's errors name the scope, such as a peer or a protocol, and
// keep the number in a field of their own.
func limitText(err error) string {
	text := fmt.Sprintf("a resource limit of this node: %v", err)
	for _, e := range chain(err) {
		v := reflect.ValueOf(e)
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			continue
		}
		if n := v.Elem().FieldByName("limit"); n.IsValid() && n.CanInt() {
			return fmt.Sprintf("%s (the limit is %d)", text, n.Int())
		}
	}
	return text
}

// chain is an error and all that it wraps because of a resource limit.
func chain(err error) (all []error) {
	if !errors.Is(err, network.ErrResourceLimitExceeded) {
		return nil
	}
	all = []error{err}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		all = append(all, chain(e.Unwrap())...)
	case interface{ Unwrap() []error }:
		for _, in := range e.Unwrap() {
			all = append(all, chain(in)...)
		}
	}
	return all
}
