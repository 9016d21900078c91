package connmgr_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/kith-p2p/kith/connmgr"
)

// server accepts connections and keeps them until the program ends.
func server() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		var open []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				for _, c := range open {
					c.Close()
				}
				return
			}
			open = append(open, c)
		}
	}()
	return l
}

// Two connections are kept up: when one ends, another takes its place.
func Example() {
	l := server()
	defer l.Close()

	up := make(chan net.Conn)
	cm, err := connmgr.New(&connmgr.Config{
		TargetOutbound:  2,
		GetNewAddress:   func() (net.Addr, error) { return l.Addr(), nil },
		Dial:            func(a net.Addr) (net.Conn, error) { return net.Dial(a.Network(), a.String()) },
		OnConnection:    func(_ *connmgr.ConnReq, c net.Conn) { up <- c },
		OnDisconnection: func(*connmgr.ConnReq) { fmt.Println("one ended") },
	})
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- cm.Run(ctx) }()

	first := <-up
	<-up
	fmt.Println("two are up")
	first.Close()
	<-up
	fmt.Println("two are up again:", len(cm.Inspect().Connections))

	stop()
	fmt.Println("Run:", <-done)
	// Unordered output:
	// two are up
	// one ended
	// two are up again: 2
	// Run: <nil>
}

// A permanent peer with two addresses, of which the first does not answer.
func ExampleConnManager_Connect() {
	l := server()
	defer l.Close()
	gone := server()
	gone.Close()

	up := make(chan string)
	cm, err := connmgr.New(&connmgr.Config{
		DialContext: func(ctx context.Context, a net.Addr) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, a.Network(), a.String())
		},
		OnConnection: func(r *connmgr.ConnReq, c net.Conn) {
			where := "the first address"
			if c.RemoteAddr().String() == r.OtherAddrs[0].String() {
				where = "the other address"
			}
			up <- fmt.Sprint(r.State(), " at ", where)
		},
	})
	if err != nil {
		panic(err)
	}
	cm.Start()
	friend := &connmgr.ConnReq{Addr: gone.Addr(), OtherAddrs: []net.Addr{l.Addr()}, Permanent: true}
	cm.Connect(friend)
	fmt.Println(<-up)

	cm.Remove(friend.ID())
	fmt.Println(friend.State())
	cm.Stop()
	cm.Wait()
	// Output:
	// established at the other address
	// disconnected
}

// Misbehaviour adds up; what decays halves every minute.
func ExampleDynamicBanScore() {
	var score connmgr.DynamicBanScore
	now := time.Unix(1_800_000_000, 0)
	fmt.Println(score.IncreaseAt(20, 80, now))
	fmt.Println(score.IntAt(now.Add(time.Minute)))
	fmt.Println(score.IntAt(now.Add(time.Hour)))
	// Output:
	// 100
	// 60
	// 20
}
