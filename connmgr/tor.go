package connmgr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// What a proxy can answer that is no address.
var (
	// ErrTorInvalidProxyResponse: it does not speak SOCKS version 5.
	ErrTorInvalidProxyResponse = errors.New("connmgr: the proxy did not answer as SOCKS 5 does")
	// ErrTorInvalidAddressResponse: it succeeded without an IPv4 address.
	ErrTorInvalidAddressResponse = errors.New("connmgr: the proxy resolved the name to something else than an IPv4 address")
	// ErrTorUnrecognizedAuthMethod: it wants authentication, which we have not.
	ErrTorUnrecognizedAuthMethod = errors.New("connmgr: the proxy wants an authentication that we do not have")
	// ErrTorHost: the name is not one that SOCKS can carry, 1 to 255 bytes.
	ErrTorHost = errors.New("connmgr: a host name for the proxy must have 1 to 255 bytes")
)

// TorError is the code with which a proxy refused to resolve a name (RFC 1928,
// section 6).
type TorError byte

// Error is what the code means.
func (e TorError) Error() string {
	means := [...]string{
		1: "general failure", 2: "not allowed by its rules", 3: "network unreachable", 4: "host unreachable",
		5: "connection refused", 6: "TTL expired", 7: "command not supported: is it Tor?", 8: "address type not supported",
	}
	if e == 0 || int(e) >= len(means) {
		return fmt.Sprintf("connmgr: the proxy refused with unknown code %d", byte(e))
	}
	return "connmgr: the proxy refused: " + means[e]
}

// torTimeout bounds TorLookupIP. Tor itself gives up resolving after a minute.
const torTimeout = 60 * time.Second

const (
	socksVersion  = 5
	socksResolve  = 0xF0 // Tor's extension: resolve a name instead of connecting
	socksHostName = 3
	socksIPv4     = 1
)

// TorLookupIP resolves a name through the Tor proxy at a TCP address, within
// 60 s. See TorLookupIPContext.
func TorLookupIP(host, proxy string) ([]net.IP, error) {
	ctx, cancel := context.WithTimeout(context.Background(), torTimeout)
	defer cancel()
	return TorLookupIPContext(ctx, host, proxy)
}

// TorLookupIPContext resolves a name through the Tor proxy at a TCP address, by
// Tor's RESOLVE extension of SOCKS 5 (torspec, socks-extensions), so that no
// DNS query leaves this machine. It needs a proxy without authentication and
// returns one IPv4 address. It blocks until the proxy answers or ctx is over.
// The errors: ctx's, those of the network, ErrTor..., and a TorError.
func TorLookupIPContext(ctx context.Context, host, proxy string) ([]net.IP, error) {
	if len(host) < 1 || len(host) > 255 {
		return nil, ErrTorHost
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", proxy)
	if err != nil {
		return nil, fmt.Errorf("connmgr: cannot reach the proxy: %w", err)
	}
	defer conn.Close()
	unhook := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer unhook()
	ip, err := torResolve(conn, host)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("connmgr: the proxy did not answer: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, err
	}
	return []net.IP{ip}, nil
}

// torResolve speaks with the proxy. Every read is of a whole field.
//
//	we send   5 | methods: 1 | none: 0
//	it sends  5 | method
//	we send   5 | RESOLVE: 0xF0 | 0 | host name: 3 | length | host | port: 0 0
//	it sends  5 | code | 0 | IPv4: 1 | 4 bytes | port, which we leave unread
func torResolve(conn io.ReadWriter, host string) (net.IP, error) {
	if _, err := conn.Write([]byte{socksVersion, 1, 0}); err != nil {
		return nil, fmt.Errorf("connmgr: asking the proxy: %w", err)
	}
	var method [2]byte
	if err := torRead(conn, method[:]); err != nil {
		return nil, err
	}
	if method[0] != socksVersion {
		return nil, ErrTorInvalidProxyResponse
	}
	if method[1] != 0 {
		return nil, ErrTorUnrecognizedAuthMethod
	}
	request := append([]byte{socksVersion, socksResolve, 0, socksHostName, byte(len(host))}, host...)
	if _, err := conn.Write(append(request, 0, 0)); err != nil {
		return nil, fmt.Errorf("connmgr: asking the proxy: %w", err)
	}
	var answer [4]byte
	if err := torRead(conn, answer[:]); err != nil {
		return nil, err
	}
	switch {
	case answer[0] != socksVersion:
		return nil, ErrTorInvalidProxyResponse
	case answer[1] != 0:
		return nil, TorError(answer[1])
	case answer[3] != socksIPv4:
		return nil, ErrTorInvalidAddressResponse
	}
	var ip [4]byte
	if err := torRead(conn, ip[:]); err != nil {
		return nil, err
	}
	return net.IPv4(ip[0], ip[1], ip[2], ip[3]), nil
}

// torRead fills b, however the bytes come.
func torRead(conn io.Reader, b []byte) error {
	if _, err := io.ReadFull(conn, b); err != nil {
		return fmt.Errorf("connmgr: reading the proxy's answer: %w", err)
	}
	return nil
}
