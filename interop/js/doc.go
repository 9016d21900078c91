// Package js has a JavaScript libp2p peer meet kith: js-libp2p on Node.js, from
// npm, with nothing of kith in it. It dials a node, asks who that is, pings it,
// calls its methods and serves some, and takes part in its topics.
//
//	go test ./...
//
// peer.mjs is the peer and plain.mjs the request wire, written from its
// description. package-lock.json pins what npm installs, which the tests do by
// themselves when it is not there (npm ci). Node.js 18 or later and npm must be
// installed: without them the tests fail, none is skipped.
package js
