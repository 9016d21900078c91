package dispatch

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/kith-p2p/kith/p2p"
)

// lossy is a running Service with a subscriber that wants no duplicates and has room
// for one message, which is taken.
func lossy(t *testing.T) (s *Service, sub *Subscriber, ch chan Message) {
	s, err := NewService(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	ch = make(chan Message, 1)
	sub = NewSubscriber("slow", ch, true, "t", 1)
	s.Register(sub)
	lose(t, s, "", "fills it")
	synctest.Wait()
	return s, sub, ch
}

// lose puts a message that the subscriber has no room for, as one of a peer.
func lose(t *testing.T, s *Service, from p2p.NodeID, text string) {
	t.Helper()
	if err := s.d.Put(NewMessage("t", from, []byte(text))); err != nil {
		t.Fatal(err)
	}
}

// wantAgain sends again what the subscriber lost: now it takes each, once.
func wantAgain(t *testing.T, s *Service, ch chan Message, format string, n int) {
	t.Helper()
	<-ch
	forgotten := 0
	for i := range n {
		for range 2 {
			lose(t, s, "another", fmt.Sprintf(format, i))
		}
		synctest.Wait()
		select {
		case m := <-ch:
			if string(m.Data()) != fmt.Sprintf(format, i) {
				t.Fatalf("%q", m.Data())
			}
		default:
			forgotten++
		}
		if len(ch) != 0 {
			t.Errorf("%q came twice", (<-ch).Data())
		}
	}
	if forgotten > 0 {
		t.Errorf("%d of %d that were lost count as seen", forgotten, n)
	}
}

// What a subscriber lost was remembered in one place for all peers: one that sent more
// than there was room for had the losses of others forgotten, and the copies of their
// messages were taken for repetitions.
func TestRegressionNoisyPeerHidesAnothersLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sub, ch := lossy(t)
		defer s.Stop()
		s.cameUp("quiet", nil)
		s.cameUp("noisy", nil)
		for i := range 100 {
			lose(t, s, "quiet", fmt.Sprint("quiet ", i))
		}
		for i := range 2 * maxMissed {
			lose(t, s, "noisy", fmt.Sprint("noisy ", i))
		}
		synctest.Wait()
		if st := sub.Stats(); st.DroppedNewest != 100+2*maxMissed {
			t.Fatalf("%+v", st)
		}
		wantAgain(t, s, ch, "quiet %d", 100)
	})
}

// Nor does it help to come under a new name each time: those who are gone have one
// share, as have those who never were there.
func TestRegressionPeersThatComeAndGoHideLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sub, ch := lossy(t)
		s.cameUp("quiet", nil)
		for i := range 100 {
			lose(t, s, "quiet", fmt.Sprint("quiet ", i))
		}
		for i := range maxMissed/25 + 1 {
			name := p2p.NodeID(fmt.Sprint("name ", i))
			s.cameUp(name, nil)
			for j := range 50 {
				if j == 25 {
					synctest.Wait()
					s.wentDown(name) // and some of its messages come late
				}
				lose(t, s, name, fmt.Sprint(name, j))
			}
		}
		synctest.Wait()
		wantAgain(t, s, ch, "quiet %d", 100)
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		missed := (*(*s.d.wanted.Load())[sub.MessageType()].subs.Load())[0].missed
		if n := len(missed.of); n > 2 || missed.n > maxMissed {
			t.Errorf("%d of %d peers are remembered", missed.n, n)
		}
	})
}
