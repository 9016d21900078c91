package interop

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peerstore"
)

// dialFunc is what pgx takes: it connects to the one server there is, whatever
// the address says.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

const pgProtocol = "/interop/postgres/1.0.0"

// carriers are the ways to get a net.Conn through kith; each returns the two
// ends.
var carriers = []struct {
	name string
	make func(*testing.T) (net.Listener, dialFunc)
}{
	{"stream over TCP", func(t *testing.T) (net.Listener, dialFunc) { return overStream(t, "/ip4/127.0.0.1/tcp/0") }},
	{"stream over QUIC", func(t *testing.T) (net.Listener, dialFunc) { return overStream(t, "/ip4/127.0.0.1/udp/0/quic-v1") }},
	{"node", overNode},
}

// TestPgx runs the pgx driver, as it is, over net.Conns of kith.
func TestPgx(t *testing.T) {
	pg := startPostgres(t)
	for _, carrier := range carriers {
		t.Run(carrier.name, func(t *testing.T) {
			ln, dial := carrier.make(t)
			spliceAll(t, ln, pg.socket())
			for _, work := range []struct {
				name string
				do   func(*testing.T, dialFunc)
			}{
				{"queries", pgQueries}, {"copy", pgCopy}, {"transactions", pgTransactions}, {"notify", pgNotify},
				{"cancel", pgCancel}, {"deadline", pgDeadline}, {"pool", pgPool},
			} {
				t.Run(work.name, func(t *testing.T) {
					began := time.Now()
					work.do(t, dial)
					t.Logf("%s over %s: %v", work.name, carrier.name, time.Since(began).Round(time.Millisecond))
				})
			}
		})
	}
}

func overStream(t *testing.T, listen string) (net.Listener, dialFunc) {
	t.Helper()
	server := newHost(t, libp2p.ListenAddrStrings(listen))
	client := newHost(t, libp2p.NoListenAddrs)
	client.Peerstore().AddAddrs(server.ID(), server.Addrs(), peerstore.PermanentAddrTTL)
	ln, err := stream.Listen(server, pgProtocol)
	if err != nil {
		t.Fatal(err)
	}
	return ln, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return stream.Dial(ctx, client, server.ID(), pgProtocol)
	}
}

func newHost(t *testing.T, opts ...libp2p.Option) host.Host {
	t.Helper()
	h, err := libp2p.New(append(opts, libp2p.DisableRelay())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func overNode(t *testing.T) (net.Listener, dialFunc) {
	t.Helper()
	server, client := newNode(t), newNode(t)
	ln, err := server.Listen("postgres", client.ID().String())
	if err != nil {
		t.Fatal(err)
	}
	return ln, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return client.Dial(ctx, server.Addrs()[0], "postgres")
	}
}

func newNode(t *testing.T) *kith.Node {
	t.Helper()
	n, err := kith.New(kith.Config{Home: t.TempDir(), LocalOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// spliceAll joins every connection of ln to a connection of its own to a unix
// socket, until the test ends.
func spliceAll(t *testing.T, ln net.Listener, socket string) {
	t.Helper()
	var running sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { splice(from, socket) })
		}
	})
}

func splice(from net.Conn, socket string) {
	defer from.Close()
	to, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer to.Close()
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(from, to)
		from.Close() // the server has hung up
	})
	io.Copy(to, from)
	to.Close() // the client has
	back.Wait()
}

func pgConnect(t *testing.T, dial dialFunc, change ...func(*pgx.ConnConfig)) *pgx.Conn {
	t.Helper()
	config := pgxConfig(t, "127.0.0.1:5432")
	config.DialFunc = pgconn.DialFunc(dial)
	for _, c := range change {
		c(config)
	}
	c, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

func execSQL(t *testing.T, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// value is what a query that yields one value yields.
func value[T any](t *testing.T, c *pgx.Conn, sql string, args ...any) (v T) {
	t.Helper()
	if err := c.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func pgQueries(t *testing.T, dial dialFunc) {
	c := pgConnect(t, dial)
	if v := value[string](t, c, "show server_version"); v == "" {
		t.Error("the server has no version")
	}
	if _, err := c.Prepare(t.Context(), "add", "select $1::int8 + $2::int8"); err != nil {
		t.Fatal(err)
	}
	for i := range int64(500) {
		if got := value[int64](t, c, "add", i, i*i); got != i+i*i {
			t.Fatalf("%d + %d is %d", i, i*i, got)
		}
	}
	batch := &pgx.Batch{} // all sent before the first answer is read
	for i := range 1000 {
		batch.Queue("select $1::int4", i)
	}
	results := c.SendBatch(t.Context(), batch)
	for i := range 1000 {
		var got int
		if err := results.QueryRow().Scan(&got); err != nil || got != i {
			t.Fatalf("batch row %d is %d: %v", i, got, err)
		}
	}
	if err := results.Close(); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("0123456789abcdef", 8<<20/16)
	if got := value[string](t, c, "select $1::text", large); got != large {
		t.Errorf("8 MiB came back as %d other bytes", len(got))
	}
	var pe *pgconn.PgError
	if _, err := c.Exec(t.Context(), "select 1/0"); !errors.As(err, &pe) || pe.Code != "22012" {
		t.Errorf("division by zero: %v", err)
	}
}

func pgCopy(t *testing.T, dial dialFunc) {
	const rows = 100_000
	c := pgConnect(t, dial)
	execSQL(t, c, "create temp table copied (id int8, body text)")
	sent := sha256.New()
	n, err := c.CopyFrom(t.Context(), pgx.Identifier{"copied"}, []string{"id", "body"}, pgx.CopyFromSlice(rows, func(i int) ([]any, error) {
		body := fmt.Sprintf("row %d %032x", i, i)
		fmt.Fprintf(sent, "%d\t%s\n", i, body)
		return []any{int64(i), body}, nil
	}))
	if err != nil || n != rows {
		t.Fatalf("COPY in: %d rows, %v", n, err)
	}
	if got := value[int64](t, c, "select sum(id) from copied"); got != rows*(rows-1)/2 {
		t.Errorf("sum %d", got)
	}
	back := sha256.New()
	tag, err := c.PgConn().CopyTo(t.Context(), back, "copy (select id, body from copied order by id) to stdout")
	if err != nil || tag.RowsAffected() != rows {
		t.Fatalf("COPY out: %v, %v", tag, err)
	}
	if string(back.Sum(nil)) != string(sent.Sum(nil)) {
		t.Error("COPY out gave other rows than COPY in took")
	}
}

func pgTransactions(t *testing.T, dial dialFunc) {
	c := pgConnect(t, dial)
	execSQL(t, c, "create temp table accounts (id int primary key, money int)")
	err := pgx.BeginFunc(t.Context(), c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "insert into accounts values (1, 10), (2, 20)"); err != nil {
			return err
		}
		inner := pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error { // a savepoint
			_, err := tx.Exec(t.Context(), "insert into accounts values (1, 0)")
			return err
		})
		if pe := (*pgconn.PgError)(nil); !errors.As(inner, &pe) || pe.Code != "23505" {
			return fmt.Errorf("a duplicate key gave %w", inner)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("undo")
	if err := pgx.BeginFunc(t.Context(), c, func(tx pgx.Tx) error {
		tx.Exec(t.Context(), "update accounts set money = 0")
		return stop
	}); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if got := value[int](t, c, "select sum(money) from accounts"); got != 30 {
		t.Errorf("after commit and rollback the accounts hold %d, want 30", got)
	}
}

func pgNotify(t *testing.T, dial dialFunc) {
	listener, notifier := pgConnect(t, dial), pgConnect(t, dial)
	execSQL(t, listener, "listen news")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	payload := strings.Repeat("n", 7000) // the server takes less than 8000
	for i := range 20 {
		execSQL(t, notifier, "select pg_notify('news', $1)", fmt.Sprintf("%d %s", i, payload))
		n, err := listener.WaitForNotification(ctx)
		if err != nil || n.Payload != fmt.Sprintf("%d %s", i, payload) {
			t.Fatalf("notification %d: %v", i, err)
		}
	}
	// Waiting in vain ends at its deadline, which spoils nothing.
	short, cancelShort := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancelShort()
	if _, err := listener.WaitForNotification(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("waiting for nothing: %v", err)
	}
	execSQL(t, notifier, "select pg_notify('news', 'after')")
	if n, err := listener.WaitForNotification(ctx); err != nil || n.Payload != "after" {
		t.Fatalf("a notification after a deadline: %v", err)
	}
}

// asleep is the number of sessions that run pg_sleep.
func asleep(t *testing.T, c *pgx.Conn) int {
	t.Helper()
	return value[int](t, c, "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'")
}

// pgCancel: a context that ends makes pgx cancel the query with a request on a
// connection of its own; the session goes on.
func pgCancel(t *testing.T, dial dialFunc) {
	c := pgConnect(t, dial, func(config *pgx.ConnConfig) {
		config.BuildContextWatcherHandler = func(pc *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: pc, DeadlineDelay: patience}
		}
	})
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := c.Exec(ctx, "select pg_sleep(600)")
		cancel()
		if pe := (*pgconn.PgError)(nil); !errors.As(err, &pe) || pe.Code != "57014" {
			t.Fatalf("cancelled query: %v", err)
		}
		if got := value[int](t, c, "select 42"); got != 42 {
			t.Fatalf("the session after a cancelled query: %d", got)
		}
	}
	if n := asleep(t, c); n != 0 {
		t.Errorf("%d cancelled queries still run", n)
	}
}

// pgDeadline: without that, pgx sets a deadline on the net.Conn and gives the
// session up, and the query does not outlive it.
func pgDeadline(t *testing.T, dial dialFunc) {
	c, observer := pgConnect(t, dial), pgConnect(t, dial)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := c.Exec(ctx, "select pg_sleep(600)")
	if !errors.Is(err, context.DeadlineExceeded) || !c.IsClosed() || time.Since(began) > patience/2 {
		t.Fatalf("after %v: %v, closed %v", time.Since(began), err, c.IsClosed())
	}
	eventually(t, "the query goes on", func() error {
		if n := asleep(t, observer); n > 0 {
			return fmt.Errorf("%d sessions sleep", n)
		}
		return nil
	})
}

// pgPool has 20 sessions at once, with transfers that cross.
func pgPool(t *testing.T, dial dialFunc) {
	const sessions, rounds = 20, 20
	config := poolConfig(t, "127.0.0.1:5432")
	config.ConnConfig.DialFunc = pgconn.DialFunc(dial)
	config.MaxConns = sessions
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	conns := make([]*pgxpool.Conn, sessions)
	for i := range conns {
		if conns[i], err = pool.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	backends := map[int]bool{}
	for _, c := range conns {
		backends[value[int](t, c.Conn(), "select pg_backend_pid()")] = true
	}
	if len(backends) != sessions {
		t.Errorf("%d sessions at once, want %d", len(backends), sessions)
	}
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			defer c.Release()
			for r := range rounds {
				size := 1 << (r % 17)
				var got string
				if err := c.QueryRow(t.Context(), "select repeat($1::text, $2::int)", string(rune('a'+i)), size).Scan(&got); err != nil {
					t.Errorf("session %d round %d: %v", i, r, err)
					return
				}
				if got != strings.Repeat(string(rune('a'+i)), size) {
					t.Errorf("session %d round %d got bytes of another", i, r)
				}
			}
		})
	}
	wg.Wait()
}
