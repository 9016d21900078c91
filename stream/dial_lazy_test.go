package stream

import (
	"io"
	"testing"
	"time"

	corehost "github.com/libp2p/go-libp2p/core/host"
)

func TestLazySaysHelloOnFirstUse(t *testing.T) {
	uses := map[string]func(c *Conn){
		"write":      func(c *Conn) { c.Write([]byte("x")) },
		"read":       func(c *Conn) { c.SetReadDeadline(time.Now().Add(time.Second)); c.Read(make([]byte, 1)) },
		"CloseWrite": func(c *Conn) { c.CloseWrite() },
	}
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		for name, use := range uses {
			tag := newTag()
			ln, err := Listen(b, tag)
			if err != nil {
				t.Fatal(err)
			}
			nc, err := Dial(t.Context(), a, b.ID(), tag, WithLazy())
			if err != nil {
				t.Fatal(err)
			}
			c := nc.(*Conn)
			if a != b && len(c.hello) == 0 {
				t.Error("a lazy dial has said hello")
			}
			go use(c)
			within(t, 10*time.Second, name, func() {
				s, err := ln.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				s.Close()
			})
			c.Close()
			ln.Close()
		}
	})
}

// A reader that says the hello and a CloseWrite do not cut each other short.
func TestLazyReadAndCloseWriteTogether(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		ln, err := Listen(b, newTag())
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			for {
				s, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					if got, err := io.ReadAll(s); len(got) != 0 || err != nil {
						t.Errorf("server: %q, %v", got, err)
					}
					s.Write([]byte("reply"))
					s.Close()
				}()
			}
		}()
		for range 50 {
			c, err := Dial(t.Context(), a, b.ID(), ln.(*listener).key.tag, WithLazy())
			if err != nil {
				t.Fatal(err)
			}
			go c.(*Conn).CloseWrite()
			within(t, 10*time.Second, "the reply", func() {
				if got, err := io.ReadAll(c); string(got) != "reply" || err != nil {
					t.Errorf("client: %q, %v", got, err)
				}
			})
			c.Close()
		}
	})
}

func TestLazyReadAfterAWriteDeadline(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		ln, err := Listen(b, newTag())
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c, err := Dial(t.Context(), a, b.ID(), ln.(*listener).key.tag, WithLazy())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetWriteDeadline(longAgo)
		go func() {
			if s, err := ln.Accept(); err == nil {
				t.Cleanup(func() { s.Close() })
				s.Write([]byte("k"))
				s.(*Conn).CloseWrite()
			}
		}()
		within(t, 10*time.Second, "Read", func() {
			if got, err := io.ReadAll(c); string(got) != "k" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
		if _, err := c.Write([]byte("x")); !isTimeout(err) {
			t.Errorf("the write deadline is gone: %v", err)
		}
	})
}

func TestCloseWriteAfterAWriteDeadline(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		for _, opts := range [][]DialOption{nil, {WithLazy()}} {
			ln, err := Listen(b, newTag())
			if err != nil {
				t.Fatal(err)
			}
			c, err := Dial(t.Context(), a, b.ID(), ln.(*listener).key.tag, opts...)
			if err != nil {
				t.Fatal(err)
			}
			c.SetWriteDeadline(longAgo)
			c.(*Conn).CloseWrite()
			within(t, 10*time.Second, "EOF", func() {
				s, err := ln.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := io.ReadAll(s); len(got) != 0 || err != nil {
					t.Errorf("%q, %v", got, err)
				}
				s.Close()
			})
			c.Close()
			ln.Close()
		}
	})
}

func TestUnusedLazyDialLeavesNothing(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		ln, err := Listen(b, newTag())
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c, err := Dial(t.Context(), a, b.ID(), ln.(*listener).key.tag, WithLazy())
		if err != nil {
			t.Fatal(err)
		}
		within(t, 5*time.Second, "Close", func() { c.Close() })
	})
}
