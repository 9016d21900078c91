package main

import (
	"errors"
	"slices"
	"time"

	"github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/libs/log"
	cometconn "github.com/cometbft/cometbft/p2p/conn"
)

// cometConfig is CometBFT's own, without its limits of 500 KB/s.
func cometConfig() cometconn.MConnConfig {
	c := cometconn.DefaultMConnConfig()
	c.SendRate, c.RecvRate = 1<<40, 1<<40
	return c
}

// cometLarge is the same with packets that are larger than its default of 1 KiB,
// which every node of a network would have to be told.
func cometLarge() cometconn.MConnConfig {
	c := cometConfig()
	c.MaxPacketMsgPayloadSize = 64 << 10
	return c
}

// cometPair are two connected ends of CometBFT, with channel 1. got is called by
// the far end, back by the near one.
func cometPair(s *scope, config cometconn.MConnConfig, got, back func(c *cometconn.MConnection, m []byte)) (from *cometconn.MConnection, err error) {
	x, y, err := tcpPair(s)
	if err != nil {
		return nil, err
	}
	var ends [2]*cometconn.SecretConnection
	errs := make(chan error, 2)
	go func() {
		var err error
		ends[0], err = cometconn.MakeSecretConnection(x, ed25519.GenPrivKey())
		errs <- err
	}()
	go func() {
		var err error
		ends[1], err = cometconn.MakeSecretConnection(y, ed25519.GenPrivKey())
		errs <- err
	}()
	if err := errors.Join(<-errs, <-errs); err != nil {
		return nil, err
	}
	var made [2]*cometconn.MConnection
	for i, handle := range []func(*cometconn.MConnection, []byte){back, got} {
		channels := []*cometconn.ChannelDescriptor{{ID: 1, Priority: 1, SendQueueCapacity: 64, RecvMessageCapacity: 4 << 20}}
		made[i] = cometconn.NewMConnectionWithConfig(ends[i], channels,
			func(_ byte, m []byte) { handle(made[i], m) },
			func(any) {}, // the end; who waits for a message finds out by Send, which then fails
			config)
		made[i].SetLogger(log.NewNopLogger())
		if err := made[i].Start(); err != nil {
			return nil, err
		}
		s.add(func() error {
			_ = made[i].Stop() // it may have noticed the other's end, and be stopped
			return nil
		})
	}
	return made[0], nil
}

var errCometSend = errors.New("cometbft did not send")

// cometFlow sends over CometBFT's SecretConnection and MConnection.
func cometFlow(s *scope, config cometconn.MConnConfig, size int) (flow, error) {
	arrived := make(chan struct{}, 1)
	from, err := cometPair(s, config, func(_ *cometconn.MConnection, m []byte) {
		if len(m) == 1 { // the mark
			arrived <- struct{}{}
		}
	}, func(*cometconn.MConnection, []byte) {})
	if err != nil {
		return nil, err
	}
	send := func(m []byte) error {
		if !from.Send(1, m) {
			return errCometSend
		}
		return nil
	}
	message := make([]byte, size)
	return sending(size, func() error { return send(message) }, func() error {
		if err := send([]byte{1}); err != nil {
			return err
		}
		select {
		case <-arrived:
			return nil
		case <-time.After(readyTimeout):
			return errors.New("cometbft did not deliver")
		}
	}), nil
}

// cometEcho is a round trip over CometBFT's.
func cometEcho(s *scope, config cometconn.MConnConfig) (func() error, error) {
	back := make(chan struct{}, 1)
	from, err := cometPair(s, config,
		func(c *cometconn.MConnection, m []byte) { c.Send(1, slices.Clone(m)) },
		func(*cometconn.MConnection, []byte) { back <- struct{}{} })
	if err != nil {
		return nil, err
	}
	m := make([]byte, echoSize)
	return func() error {
		if !from.Send(1, m) {
			return errCometSend
		}
		<-back
		return nil
	}, nil
}
