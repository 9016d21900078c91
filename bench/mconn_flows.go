package main

import (
	"context"
	"crypto/cipher"
	"fmt"
	"time"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
	"golang.org/x/crypto/chacha20poly1305"
)

// batchBytes is how much a sender sends between two looks at the clock.
const batchBytes = 256 << 10

// sending is how the flows spend their time: in batches until it is over, then
// finish, which sends a mark and waits until it has arrived.
func sending(size int, send func() error, finish func() error) flow {
	return func(d time.Duration) (n int, took time.Duration, err error) {
		start := time.Now()
		for time.Since(start) < d {
			for range max(1, batchBytes/size) {
				if err := send(); err != nil {
					return n, time.Since(start), err
				}
				n++
			}
		}
		err = finish()
		return n, time.Since(start), err
	}
}

// arrival waits for the mark of a receiver, or for its error.
func arrival(arrived <-chan struct{}, failed <-chan error) error {
	select {
	case <-arrived:
		return nil
	case err := <-failed:
		return fmt.Errorf("receive: %w", err)
	}
}

// ceilingFlow is what cipher and TCP leave: full frames of SecretConnection,
// sealed from one buffer, 64 to a write, opened as they come; counted in
// messages of size.
func ceilingFlow(s *scope, size int) (flow, error) {
	const data, sealed, perWrite = 1024, 4 + 1024 + 16, 64
	from, to, err := tcpPair(s)
	if err != nil {
		return nil, err
	}
	var aeads [2]cipher.AEAD
	for i := range aeads {
		if aeads[i], err = chacha20poly1305.New(make([]byte, chacha20poly1305.KeySize)); err != nil {
			return nil, err
		}
	}
	seal, open := aeads[0], aeads[1]
	arrived, failed := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		nonce, buffer, have := make([]byte, 12), make([]byte, 128<<10), 0
		for {
			k, err := to.Read(buffer[have:])
			if err != nil {
				failed <- err
				return
			}
			have += k
			at := 0
			for ; have-at >= sealed; at += sealed {
				plain, err := open.Open(buffer[at:at], nonce, buffer[at:at+sealed], nil)
				if err != nil {
					failed <- err
					return
				}
				if plain[0] == 1 { // the mark
					arrived <- struct{}{}
				}
			}
			have = copy(buffer, buffer[at:have])
		}
	}()
	nonce, frame, mark, block := make([]byte, 12), make([]byte, 4+data), make([]byte, 4+data), make([]byte, 0, perWrite*sealed)
	mark[0] = 1
	frames := sending(perWrite*data, func() error {
		block = block[:0]
		for range perWrite {
			block = seal.Seal(block, nonce, frame, nil)
		}
		_, err := from.Write(block)
		return err
	}, func() error {
		if _, err := from.Write(seal.Seal(block[:0], nonce, mark, nil)); err != nil {
			return err
		}
		return arrival(arrived, failed)
	})
	return func(d time.Duration) (int, time.Duration, error) {
		n, took, err := frames(d)
		return max(1, n*perWrite*data/size), took, err
	}, nil
}

// benchKey is a key of the benchmarks.
func benchKey(n byte) (identity.PrivKey, error) {
	seed := make([]byte, 32)
	seed[0] = n
	return identity.PrivKeyFromSeed(seed)
}

// mconnPair are two connected ends of ours, with channel 1.
func mconnPair(ctx context.Context, s *scope, opts mconn.Options) (from, to *mconn.Connection, err error) {
	x, y, err := tcpPair(s)
	if err != nil {
		return nil, nil, err
	}
	if from, err = mconn.NewConnection(x, opts); err != nil {
		return nil, nil, err
	}
	s.add(from.Close)
	if to, err = mconn.NewConnection(y, opts); err != nil {
		return nil, nil, err
	}
	s.add(to.Close)
	errs := make(chan error, 2)
	for i, c := range []*mconn.Connection{from, to} {
		key, err := benchKey(byte(i + 1))
		if err != nil {
			return nil, nil, err
		}
		go func() {
			_, _, err := c.Handshake(ctx, p2p.NodeInfo{
				NodeID: key.Public().NodeID(), ListenAddr: "127.0.0.1:1", Network: "bench", Moniker: "bench", Channels: []p2p.ChannelID{1},
			}, key)
			c.SetChannelLimits(map[p2p.ChannelID]int{1: 2 << 20})
			errs <- err
		}()
	}
	for range 2 {
		if e := <-errs; e != nil {
			err = e
		}
	}
	return from, to, err
}

// connectionFlow sends over one connection, as the Router's writer and reader do.
func connectionFlow(ctx context.Context, s *scope, opts mconn.Options, size int) (flow, error) {
	from, to, err := mconnPair(ctx, s, opts)
	if err != nil {
		return nil, err
	}
	arrived, failed := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		for {
			_, m, err := to.ReceiveMessage()
			if err != nil {
				failed <- err
				return
			}
			if len(m) == 0 { // the mark
				arrived <- struct{}{}
			}
			to.Recycle(m)
		}
	}()
	message := make([]byte, size)
	return sending(size, func() error {
		rest := message
		for chunk := from.MaxChunk(); len(rest) > chunk; rest = rest[chunk:] {
			if err := from.SendChunk(1, rest[:chunk], false); err != nil {
				return err
			}
		}
		return from.SendChunk(1, rest, true)
	}, func() error {
		if err := from.SendMessage(1, nil); err != nil {
			return err
		}
		return arrival(arrived, failed)
	}), nil
}

// connectionEcho is a round trip over one connection.
func connectionEcho(ctx context.Context, s *scope, opts mconn.Options) (func() error, error) {
	from, to, err := mconnPair(ctx, s, opts)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			ch, m, err := to.ReceiveMessage()
			if err != nil || to.SendMessage(ch, m) != nil {
				return
			}
		}
	}()
	m := make([]byte, echoSize)
	return func() error {
		if err := from.SendMessage(1, m); err != nil {
			return err
		}
		_, _, err := from.ReceiveMessage()
		return err
	}, nil
}
