package network

// A Reason is the stable name of one way in which a request can be wrong. It ends the error's text, and
// docs/troubleshooting.md says of each what is wrong and what to do.
type Reason string

// What text as such can be.
const (
	NotJSON      Reason = "NotJSON"
	TooDeep      Reason = "TooDeep"
	TooLong      Reason = "TooLong"
	TooMany      Reason = "TooMany"
	DuplicateKey Reason = "DuplicateKey"
	UnknownKey   Reason = "UnknownKey"
	MissingKey   Reason = "MissingKey"
	WrongType    Reason = "WrongType"
	EmptyList    Reason = "EmptyList"
)

// What a pod's annotation can get wrong.
const (
	NoName            Reason = "NoName"
	BadName           Reason = "BadName"
	BadNamespace      Reason = "BadNamespace"
	BadInterface      Reason = "BadInterface"
	InterfaceTaken    Reason = "InterfaceTaken"
	BadMAC            Reason = "BadMAC"
	BadIP             Reason = "BadIP"
	BadGUID           Reason = "BadGUID"
	BadPort           Reason = "BadPort"
	BadProtocol       Reason = "BadProtocol"
	BadRate           Reason = "BadRate"
	BadDeviceID       Reason = "BadDeviceID"
	ClaimAndIPs       Reason = "ClaimAndIPs"
	TwoDefaultRoutes  Reason = "TwoDefaultRoutes"
	OneDefaultNetwork Reason = "OneDefaultNetwork"
	NoDefinition      Reason = "NoDefinition"
	NotAllowed        Reason = "NotAllowed"
)

// What a definition can get wrong.
const (
	NoConfig       Reason = "NoConfig"
	BadNetworkName Reason = "BadNetworkName"
	BadVersion     Reason = "BadVersion"
	BadPluginType  Reason = "BadPluginType"
	SelfDelegation Reason = "SelfDelegation"
	NoCapability   Reason = "NoCapability"
	BadResource    Reason = "BadResource"
)

// What can be wrong between a pod's devices, its networks and their definitions.
const (
	NoResource    Reason = "NoResource"
	MissingDevice Reason = "MissingDevice"
	ForeignDevice Reason = "ForeignDevice"
	DeviceTaken   Reason = "DeviceTaken"
	TwoDevices    Reason = "TwoDevices"
)

// What shows when the networks are attached, on the pod's node.
const (
	NoPlugin          Reason = "NoPlugin"
	NoGateway         Reason = "NoGateway"
	GatewayOutOfReach Reason = "GatewayOutOfReach"
)

// What a node's configuration can get wrong.
const (
	BadPath       Reason = "BadPath"
	NoNodeNetwork Reason = "NoNodeNetwork"
)
