package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/transport"
)

// Listen on any free port, dial it, say something.
func Example() {
	t := transport.New(transport.Options{})
	l, err := t.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "good morning")
	}()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := t.Dial(ctx, l.Multiaddr(), false)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	said, err := io.ReadAll(c)
	fmt.Printf("%s, %v, closed: %v\n", said, err, c.Closed())
	// Output: good morning, <nil>, closed: true
}

// An address that keeps failing is left alone for a while.
func Example_breaker() {
	t := transport.New(transport.Options{Threshold: 2})
	events := t.Panel().Subscribe()
	nobody := ma.StringCast("/unix/no/such/socket")
	for range 3 {
		_, err := t.Dial(context.Background(), nobody, false)
		if open, ok := errors.AsType[*transport.OpenError](err); ok {
			fmt.Println("left alone:", open.Name, time.Until(open.RetryAt) < time.Second)
		} else {
			fmt.Println(err)
		}
	}
	t.Panel().Unsubscribe(events)
	for e := range events {
		fmt.Println(e.Kind)
	}
	// Output:
	// transport: dial /unix/no/such/socket: dial unix /no/such/socket: connect: no such file or directory
	// transport: dial /unix/no/such/socket: dial unix /no/such/socket: connect: no such file or directory
	// left alone: /unix/no/such/socket true
	// fail
	// fail
	// tripped
}

// A component that would not be honoured is refused and named.
func Example_unsupported() {
	t := transport.New(transport.Options{})
	_, err := t.Dial(context.Background(), ma.StringCast("/ip4/127.0.0.1/tcp/80/ws"), false)
	if u, ok := errors.AsType[*address.UnsupportedError](err); ok {
		fmt.Println(u.Component)
	}
	// Output: ws
}

// Breakers guard anything that has a name, not only dials.
func ExampleBreaker_Allow() {
	b := transport.New(transport.Options{}).Panel().Lookup(&net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 53})
	done, err := b.Allow()
	if err != nil {
		fmt.Println(err)
		return
	}
	done(nil) // or what went wrong
	fmt.Println(b.Name(), b.State())
	b.Trip()
	_, err = b.Allow()
	fmt.Println(errors.Is(err, transport.ErrBreakerOpen), b.State())
	// Output:
	// 192.0.2.1:53 closed
	// true open
}

func ExampleHostPort() {
	for _, s := range []string{"/ip6/::1/tcp/80", "/dns4/example.com/tcp/443", "/unix/run/x"} {
		hp, err := transport.HostPort(ma.StringCast(s))
		fmt.Println(hp, errors.Is(err, transport.ErrAddress))
	}
	// Output:
	// [::1]:80 false
	// example.com:443 false
	//  true
}
