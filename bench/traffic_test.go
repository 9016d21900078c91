package main

import (
	"context"
	"net"
	"testing"
)

func TestTraffic(t *testing.T) {
	s, err := newService()
	if err != nil {
		t.Fatal(err)
	}
	dial := dialTCP(s.addr())
	for _, way := range ways {
		for _, size := range []int{1, 1000, readSize + 1, 4 << 20} {
			if v, err := transfer(t.Context(), dial, way.op, size, 64<<10); err != nil || v <= 0 {
				t.Errorf("%s, %d bytes: %v MiB/s, %v", way.name, size, v, err)
			}
		}
	}
	if took, err := sequence(t.Context(), dial, 10); err != nil || len(took) != 10 {
		t.Errorf("a sequence of 10: %d, %v", len(took), err)
	}
	if n, err := crowd(t.Context(), dial, 50); n != 50 || err != nil {
		t.Errorf("a crowd of 50: %d, %v", n, err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if n, err := crowd(t.Context(), dial, 3); n != 0 || err == nil {
		t.Errorf("a crowd of 3 without a service: %d, %v", n, err)
	}
}

// A crowd counts who works, and is not held up by who does not.
func TestCrowdCounts(t *testing.T) {
	calls := make(chan int, 10)
	for i := range cap(calls) {
		calls <- i
	}
	n, err := crowd(t.Context(), func(ctx context.Context) (conn, error) {
		ours, theirs := net.Pipe()
		if <-calls%2 == 0 {
			theirs.Close()
			return ours, nil
		}
		go serve(theirs)
		return ours, nil
	}, cap(calls))
	if n != 5 || err == nil {
		t.Errorf("%d of 10 with one in two broken, %v", n, err)
	}
}

// What a peer of the service could send by mistake ends the connection.
func TestServeFaults(t *testing.T) {
	for name, sent := range map[string]string{
		"unknown":    "x123456789012",
		"no chunk":   "w\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00",
		"huge chunk": "r\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff",
	} {
		ours, theirs := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- serve(theirs) }()
		ours.Write([]byte(sent))
		if err := <-done; err == nil {
			t.Errorf("%s: no error", name)
		}
		ours.Close()
	}
}
