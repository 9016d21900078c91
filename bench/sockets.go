package main

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// flow moves messages for a time and says how many arrived in which time.
type flow func(time.Duration) (messages int, took time.Duration, err error)

// rate is a flow in messages a second.
func (f flow) rate(window time.Duration) func(context.Context) (float64, error) {
	return func(context.Context) (float64, error) {
		n, took, err := f(window)
		return float64(n) / took.Seconds(), err
	}
}

// roundTrip is the median time of one of so many round trips, in microseconds.
func roundTrip(times int, round func() error) func(context.Context) (float64, error) {
	return func(context.Context) (float64, error) {
		var took []float64
		for range times {
			start := time.Now()
			if err := round(); err != nil {
				return 0, err
			}
			took = append(took, float64(time.Since(start).Nanoseconds())/1000)
		}
		return quantile(took, 0.5), nil
	}
}

// tcpPair are two ends of a connection over loopback.
func tcpPair(s *scope) (from, to net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if from, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if to, err = l.Accept(); err != nil {
		return nil, nil, errors.Join(err, from.Close())
	}
	s.add(func() error {
		// Whatever runs over it has mostly closed it before.
		from.Close()
		to.Close()
		return nil
	})
	return from, to, nil
}

// echoSize is the length of the messages of the echo rows.
const echoSize = 100

// tcpEcho is a round trip over TCP alone.
func tcpEcho(s *scope) (func() error, error) {
	from, to, err := tcpPair(s)
	if err != nil {
		return nil, err
	}
	go io.Copy(to, to) // until the scope closes the connection
	m := make([]byte, echoSize)
	return func() error {
		if _, err := from.Write(m); err != nil {
			return err
		}
		_, err := io.ReadFull(from, m)
		return err
	}, nil
}
