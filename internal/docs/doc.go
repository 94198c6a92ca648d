// Package docs reads the documentation as a program does, so that tests can check
// what it says against the code and run what it tells users to run.
//
// Blocks of code say in the words behind their language what is to be done with them:
//
//	```yaml              objects: decoded strictly, and tried on an API server if they are whole
//	```yaml kind=BGPPeer a part of an object of that kind
//	```yaml apply        objects that are applied when the page is run
//	```sh run            commands that are run when the page is
//	```console run       the same, where each begins with $ and its output follows
//
// NODE stands for the name of a node. Addresses are those for documentation (RFC
// 5737, RFC 3849); a lab has others in their place.
package docs
