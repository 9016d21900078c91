package daemon

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestStopEndsStreamingCalls(t *testing.T) {
	noLeaks(t)
	r := start(t, newHome(t))
	other := start(t, newHome(t))
	mount, err := r.client.Expose(t.Context(), &controlv1.ExposeRequest{Target: "9", AllowAny: true})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	begun := make(chan struct{}, 2)
	go func() {
		var last error
		first := true
		for _, err := range r.client.Ping(context.Background(), &controlv1.PingRequest{
			Peer: other.status.GetAddresses()[0], Interval: durationpb.New(time.Hour), Timeout: durationpb.New(time.Hour),
		}) {
			if last = err; first {
				first = false
				begun <- struct{}{}
			}
		}
		ended <- last
	}()
	go func() {
		var last error
		first := true
		for _, err := range r.client.Hold(context.Background(), mount.GetMount().GetId()) {
			if last = err; first {
				first = false
				begun <- struct{}{}
			}
		}
		ended <- last
	}()
	<-begun
	<-begun
	r.end(t)
	for range 2 {
		var e *Error
		if err := <-ended; !errors.As(err, &e) || e.Code != "unavailable" {
			t.Errorf("a streaming call ended with %v", err)
		}
	}
}

func TestPingBadPeer(t *testing.T) {
	noLeaks(t)
	r := start(t, newHome(t))
	for _, tc := range []struct {
		req  *controlv1.PingRequest
		code string
	}{
		{&controlv1.PingRequest{}, "invalid_argument"},
		{&controlv1.PingRequest{Peer: "nobody"}, "invalid_argument"},
		{&controlv1.PingRequest{Peer: "x", Count: -1}, "invalid_argument"},
		{&controlv1.PingRequest{Peer: "x", Interval: durationpb.New(1)}, "invalid_argument"},
		{&controlv1.PingRequest{Peer: "x", Timeout: durationpb.New(-1)}, "invalid_argument"},
		{&controlv1.PingRequest{Peer: "12D3KooWEc1pRgsK3VgEbNFAfm5qK5EP4ZPKs6oCMvirLzePy7eJ"}, "not_found"},
		{&controlv1.PingRequest{Peer: "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWEc1pRgsK3VgEbNFAfm5qK5EP4ZPKs6oCMvirLzePy7eJ"}, "unavailable"},
	} {
		for _, err := range r.client.Ping(t.Context(), tc.req) {
			var e *Error
			if !errors.As(err, &e) || e.Code != tc.code {
				t.Errorf("%v: %v, want code %s", tc.req, err, tc.code)
			}
		}
	}
}

func TestHoldUnknownMount(t *testing.T) {
	noLeaks(t)
	r := start(t, newHome(t))
	for _, err := range r.client.Hold(t.Context(), 99) {
		var e *Error
		if !errors.As(err, &e) || e.Code != "not_found" {
			t.Errorf("%v", err)
		}
	}
}

func TestHoldEndsWhenClosedElsewhere(t *testing.T) {
	noLeaks(t)
	r := start(t, newHome(t))
	res, err := r.client.Expose(t.Context(), &controlv1.ExposeRequest{Target: "9", Name: "x", AllowAny: true})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, err := range r.client.Hold(t.Context(), res.GetMount().GetId()) {
		if err != nil {
			t.Fatal(err)
		}
		seen++
		if _, err := r.client.CloseMounts(t.Context(), &controlv1.CloseMountsRequest{Name: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	if seen != 1 {
		t.Errorf("%d answers", seen)
	}
}
