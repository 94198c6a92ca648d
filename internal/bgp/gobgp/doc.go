// Package gobgp runs BGP sessions with GoBGP. It is the only importer of GoBGP.
package gobgp

import _ "github.com/osrg/gobgp/v3/pkg/server" // the speaker that this package adapts
