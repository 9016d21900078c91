// Package interop checks kith with programs that know nothing of it: a
// PostgreSQL server with psql, pgbench and the pgx driver; nginx and curl; gRPC
// and curl on the control API; the kernel's network namespaces for mDNS; a file
// system that is really full. Everything is driven as a person or a program
// would: the kith command as processes, the packages by their public API.
//
//	./install.sh && go test -race ./...
//
// It needs Linux and root (for namespaces and mounts). What is missing makes a
// test fail, never skip. Servers live in temporary directories, listen on
// loopback or unix sockets only, and are stopped and waited for; should the
// test process be killed, the kernel ends them and takes namespaces and mounts
// down with it.
//
// This folder is its own module, so that drivers stay out of kith's go.mod;
// interop/kubo is a third, since kubo's dependencies fit with nothing.
package interop
