package libp2p

import (
	"io"
	"sync/atomic"
	"testing"

	"github.com/kith-p2p/kith/p2p"
)

// Over every network a channel whose messages are not taken stops alone, and its
// sender with it, before much is on the way; when they are taken, none is missing.
func TestAnUnreadChannelStopsAlone(t *testing.T) {
	for _, nw := range networks {
		t.Run(nw.name, func(t *testing.T) {
			p := nw.make(t)
			p.join(t)
			goroutinesBack(t)
			a, b := transports(t, p, Options{})
			x, y := session(t, p, a, b, 1, 2)
			const size, most = 64 << 10, 200
			var (
				release = make(chan struct{})
				stuck   atomic.Int64 // messages of channel 1 that were taken
				free    = make(chan int, 1)
				ended   = make(chan error, 1)
				sent    atomic.Int64
				sender  = make(chan error, 1)
			)
			go func() {
				ended <- y.ReceiveMessages(func(id p2p.ChannelID, data []byte) {
					if id == 2 {
						free <- number(data)
						return
					}
					<-release
					if n := int(stuck.Add(1)) - 1; number(data) != n || len(data) != size {
						t.Errorf("message %d is %d", n, number(data))
					}
				})
			}()
			go func() {
				for i := range most {
					if err := x.SendMessage(1, numbered(i, size)); err != nil {
						sender <- err
						return
					}
					sent.Store(int64(i) + 1)
				}
				sender <- nil
			}()
			for i := range 300 { // while the other channel fills whatever it fills
				if err := x.SendMessage(2, numbered(i, 1000)); err != nil {
					t.Fatal(err)
				}
				if got := <-free; got != i {
					t.Fatalf("message %d is %d", i, got)
				}
			}
			if n := sent.Load(); n == most {
				t.Errorf("%d messages were taken for a receiver that takes none", n)
			}
			close(release)
			if err := <-sender; err != nil {
				t.Fatal(err)
			}
			until(t, "all of them are taken", func() bool { return stuck.Load() == most })
			x.Close()
			if err := <-ended; err != io.EOF {
				t.Errorf("ReceiveMessages returns %v", err)
			}
		})
	}
}

// ReceiveMessages does not wait for a call that blocks when the session is closed
// here; one that the peer closed ends soon after, though a channel is stuck.
func TestReceiveMessagesEndsThoughAChannelIsStuck(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	goroutinesBack(t)
	a, b := transports(t, p, Options{})
	x, y := session(t, p, a, b, 1)
	release, inside := make(chan struct{}), make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- y.ReceiveMessages(func(p2p.ChannelID, []byte) {
			inside <- struct{}{}
			<-release
		})
	}()
	if err := x.SendMessage(1, []byte("stuck")); err != nil {
		t.Fatal(err)
	}
	<-inside
	y.Close()
	if err := <-ended; err != io.EOF {
		t.Errorf("ReceiveMessages returns %v", err)
	}
	close(release)
}
