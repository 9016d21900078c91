package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// startKith runs two `kith up` processes with a tunnel to the service.
func (b *bench) startKith(ctx context.Context, name, bin string) (*daemons, error) {
	// As a person starts it, but for QUIC, so that both kinds of nodes speak
	// TCP, and for mDNS, so that nothing leaves the machine.
	flags := []string{"up", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", "--json"}
	d := &daemons{name: name, config: fmt.Sprintf("two `kith %s` processes, otherwise as by default: TCP, TLS, yamux", strings.Join(flags, " "))}

	up := func() (home string, p *process, addr string, err error) {
		if home, err = b.nodeDir(); err != nil {
			return "", nil, "", err
		}
		if p, err = start(home, nil, bin, append([]string{"--home", home}, flags...)...); err != nil {
			return "", nil, "", err
		}
		b.stops.add(p.stop)
		err = p.waitReady(ctx, func() error {
			for line := range bytes.Lines(p.output()) {
				var status struct{ Addresses []string }
				if json.Unmarshal(line, &status) == nil && len(status.Addresses) > 0 {
					addr = status.Addresses[0]
					return nil
				}
			}
			return errors.New("it has not said where it listens")
		})
		return home, p, addr, err
	}
	farHome, far, addr, err := up()
	if err != nil {
		return nil, err
	}
	nearHome, near, _, err := up()
	if err != nil {
		return nil, err
	}
	d.near, d.far = near, far
	if _, err := command(ctx, nil, bin, "--home", farHome, "expose", b.service.addr(), "--name", "bench", "--allow-any"); err != nil {
		return nil, err
	}
	out, err := command(ctx, nil, bin, "--home", nearHome, "connect", addr+"/bench", "127.0.0.1:0", "--check", "--json")
	if err != nil {
		return nil, err
	}
	var reply struct{ Mount struct{ Local string } }
	if err := json.Unmarshal(out, &reply); err != nil || reply.Mount.Local == "" {
		return nil, fmt.Errorf("kith connect printed %q (%v)", out, err)
	}
	d.dial = dialTCP(reply.Mount.Local)
	return d, nil
}
