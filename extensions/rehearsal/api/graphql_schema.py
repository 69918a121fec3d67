# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of RunPod's GraphQL schema that clients were seen to use."""

from __future__ import annotations

DEPLOY_FIELDS = """
  cloudType: CloudTypeEnum
  gpuTypeId: String
  gpuCount: Int
  name: String
  imageName: String
  dockerArgs: String
  ports: String
  env: [EnvironmentVariableInput]
  containerDiskInGb: Int
  volumeInGb: Int
  volumeMountPath: String
  networkVolumeId: String
  templateId: String
  dataCenterId: String
  countryCode: String
  minVcpuCount: Int
  minMemoryInGb: Int
  minDisk: Int
  minDownload: Int
  minUpload: Int
  allowedCudaVersions: [String]
  minCudaVersion: String
  supportPublicIp: Boolean
  globalNetwork: Boolean
  startSsh: Boolean
  startJupyter: Boolean
  containerRegistryAuthId: String
  compliance: [String]
  deployCost: Float
  stopAfter: DateTime
  terminateAfter: DateTime
"""
SPOT = "podRentInterruptable(input: PodRentInterruptableInput!): Pod"
SDL = f"""
scalar Void
scalar DateTime
enum CloudTypeEnum {{ ALL SECURE COMMUNITY }}
enum PodStatus {{ CREATED RUNNING RESTARTING EXITED PAUSED DEAD TERMINATED }}

input EnvironmentVariableInput {{ key: String! value: String! }}
input GpuTypeFilter {{ id: String ids: [String] }}
input PodFilter {{ podId: String! }}
input GpuLowestPriceInput {{
  gpuCount: Int! minDisk: Int minMemoryInGb: Int minVcpuCount: Int secureCloud: Boolean dataCenterId: String countryCode: String
  supportPublicIp: Boolean globalNetwork: Boolean compliance: [String] cudaVersion: String
}}
input PodFindAndDeployOnDemandInput {{ {DEPLOY_FIELDS} }}
input PodRentInterruptableInput {{ {DEPLOY_FIELDS} bidPerGpu: Float! }}
input DeployCpuPodInput {{ {DEPLOY_FIELDS} instanceId: String }}
input PodStopInput {{ podId: String! }}
input PodResumeInput {{ podId: String! gpuCount: Int }}
input PodBidResumeInput {{ podId: String! bidPerGpu: Float! gpuCount: Int! }}
input PodTerminateInput {{ podId: String! }}
input SaveTemplateInput {{
  id: String name: String imageName: String dockerArgs: String containerDiskInGb: Int volumeInGb: Int volumeMountPath: String ports: String
  env: [EnvironmentVariableInput] isServerless: Boolean isPublic: Boolean readme: String startSsh: Boolean startJupyter: Boolean
  containerRegistryAuthId: String category: String
}}
input SaveRegistryAuthInput {{ name: String! username: String! password: String! }}
input UpdateRegistryAuthInput {{ id: String! username: String! password: String! }}
input CreateNetworkVolumeInput {{ name: String! size: Int! dataCenterId: String! }}
input UpdateNetworkVolumeInput {{ id: String! name: String size: Int }}
input DeleteNetworkVolumeInput {{ id: String! }}
input UpdateUserSettingsInput {{ pubKey: String }}

type EnvironmentVariable {{ key: String value: String }}
type LowestPrice {{
  gpuName: String gpuTypeId: String minimumBidPrice: Float uninterruptablePrice: Float minMemory: Int minVcpu: Int minDisk: Int minDownload: Int minUpload: Int
  stockStatus: String rentedCount: Int totalCount: Int rentalPercentage: Float maxGpuCount: Int maxUnreservedGpuCount: Int availableGpuCounts: [Int]
  compliance: [String] countryCode: String supportPublicIp: Boolean
}}
type GpuType {{
  id: String displayName: String manufacturer: String memoryInGb: Int cudaCores: Int maxGpuCount: Int secureCloud: Boolean communityCloud: Boolean
  securePrice: Float communityPrice: Float secureSpotPrice: Float communitySpotPrice: Float oneWeekPrice: Float oneMonthPrice: Float threeMonthPrice: Float
  sixMonthPrice: Float lowestPrice(input: GpuLowestPriceInput): LowestPrice
}}
type GpuAvailability {{ gpuTypeId: String displayName: String stockStatus: String available: Boolean }}
type DataCenter {{ id: String name: String location: String storageSupport: Boolean gpuAvailability: [GpuAvailability] }}
type NetworkVolume {{ id: String name: String size: Int dataCenterId: String }}
type ContainerRegistryAuth {{ id: String name: String }}
type PodTemplate {{
  id: String name: String imageName: String dockerArgs: String containerDiskInGb: Int volumeInGb: Int volumeMountPath: String ports: String
  env: [EnvironmentVariable] isServerless: Boolean isPublic: Boolean readme: String startSsh: Boolean startJupyter: Boolean
  containerRegistryAuthId: String category: String
}}
type PodRuntimePort {{ ip: String isIpPublic: Boolean privatePort: Int publicPort: Int type: String }}
type PodRuntimeGpu {{ id: String gpuUtilPercent: Int memoryUtilPercent: Int }}
type PodRuntimeContainer {{ cpuPercent: Int memoryPercent: Int }}
type PodRuntime {{ uptimeInSeconds: Int ports: [PodRuntimePort] gpus: [PodRuntimeGpu] container: PodRuntimeContainer }}
type PodMachineInfo {{ gpuDisplayName: String gpuTypeId: String location: String dataCenterId: String podHostId: String secureCloud: Boolean }}
type Pod {{
  id: String name: String desiredStatus: PodStatus lastStatusChange: String imageName: String env: [String] ports: String port: String dockerArgs: String
  dockerId: String costPerHr: Float adjustedCostPerHr: Float gpuCount: Int vcpuCount: Float memoryInGb: Float containerDiskInGb: Int volumeInGb: Float
  volumeMountPath: String networkVolumeId: String machineId: String podType: String templateId: String uptimeSeconds: Int lowestBidPriceToResume: Float
  locked: Boolean machine: PodMachineInfo runtime: PodRuntime
}}
type User {{
  id: String email: String clientBalance: Float currentSpendPerHr: Float spendLimit: Int pubKey: String networkVolumes: [NetworkVolume]
  containerRegistryCreds: [ContainerRegistryAuth] podTemplates: [PodTemplate] pods: [Pod]
}}

type Query {{
  gpuTypes(input: GpuTypeFilter): [GpuType]
  dataCenters: [DataCenter]
  myself: User
  pod(input: PodFilter): Pod
}}
type Mutation {{
  podFindAndDeployOnDemand(input: PodFindAndDeployOnDemandInput): Pod
  {SPOT}
  deployCpuPod(input: DeployCpuPodInput): Pod
  podStop(input: PodStopInput!): Pod
  podResume(input: PodResumeInput!): Pod
  podBidResume(input: PodBidResumeInput!): Pod
  podTerminate(input: PodTerminateInput!): Void
  saveTemplate(input: SaveTemplateInput): PodTemplate
  deleteTemplate(templateName: String): Void
  saveRegistryAuth(input: SaveRegistryAuthInput): ContainerRegistryAuth
  updateRegistryAuth(input: UpdateRegistryAuthInput): ContainerRegistryAuth
  deleteRegistryAuth(registryAuthId: String): Boolean
  createNetworkVolume(input: CreateNetworkVolumeInput!): NetworkVolume
  updateNetworkVolume(input: UpdateNetworkVolumeInput!): NetworkVolume
  deleteNetworkVolume(input: DeleteNetworkVolumeInput!): Boolean
  updateUserSettings(input: UpdateUserSettingsInput): User
}}
"""
