module github.com/kith-p2p/kith/interop/btcd

go 1.26.0

replace github.com/kith-p2p/kith => ../..

require (
	github.com/btcsuite/btcd v0.26.2
	github.com/kith-p2p/kith v0.0.0
)

require (
	github.com/btcsuite/btcd/chaincfg/v2 v2.0.0 // indirect
	github.com/btcsuite/btcd/chainhash/v2 v2.0.0 // indirect
	github.com/btcsuite/btcd/wire/v2 v2.0.1 // indirect
	github.com/btcsuite/btclog v1.0.0 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)
