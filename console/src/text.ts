// English and Chinese, by the browser's language until somebody chooses.
const KEY = 'culvert.language';
export const LANGUAGES = ['en', 'zh'] as const;
export type Language = (typeof LANGUAGES)[number];

const stored = localStorage.getItem(KEY) as Language | null;
let language: Language = stored && LANGUAGES.includes(stored) ? stored : navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en';
document.documentElement.lang = language;

export const current = () => language;
export function choose(to: Language) {
  language = to;
  localStorage.setItem(KEY, to);
  document.documentElement.lang = to;
}

const TEXT = {
  wall: ['Wall', '电视墙'], platforms: ['Platforms', '平台'], streams: ['Streams', '视频流'], sessions: ['Sessions', '会话'],
  transfers: ['Pulls and pushes', '拉流与推流'], uppers: ['Uppers', '上级'], config: ['Configuration', '配置'], events: ['Events', '事件'],
  start: ['Start', '入门'], search: ['Search', '搜索'], layout: ['Layout', '布局'], name: ['Name', '名称'], state: ['State', '状态'],
  tracks: ['Tracks', '编码'], rate: ['Rate', '码率'], viewers: ['Viewers', '观众'], key_interval: ['Key frames', '关键帧间隔'], origin: ['From', '来源'],
  since: ['Since', '起始'], protocol: ['Protocol', '协议'], address: ['Address', '地址'], who: ['Who', '身份'], bytes: ['Bytes', '流量'],
  gaps: ['Gaps', '丢帧次数'], behind: ['Behind', '延迟'], action: ['Does', '动作'], close: ['Close', '关闭'], play: ['Play', '播放'],
  publish: ['publishes', '推流'], watch: ['watches', '观看'], stop: ['Stop', '停止'], remove: ['Remove', '移除'], copy: ['Copy URL', '复制地址'],
  copied: ['Copied', '已复制'], copy_text: ['Copy', '复制'], show_token: ['Show my token', '显示我的令牌'], hide_token: ['Hide it', '隐藏'], linked: ['linked', '在线'], unlinked: ['unknown for', '失联'], carrier: ['Carrier', '承载'],
  rtt: ['Round trip', '往返时延'], reconnects: ['Reconnects', '重连次数'], uptime: ['Linked for', '在线时长'], sent: ['Sent', '已发送'],
  received: ['Received', '已接收'], version: ['Version', '版本'], error: ['Error', '错误'], details: ['Details', '详情'], log: ['Log', '日志'],
  open_node: ['Look at this node', '进入该节点'], back_here: ['Back to this node', '返回本节点'], targets: ['Devices', '设备页面'], live: ['live', '直播中'],
  starting: ['starting', '启动中'], ended: ['ended', '已结束'], down: ['down', '故障'], idle: ['idle', '空闲'], new_pull: ['New pull', '新建拉流'],
  new_push: ['New push', '新建推流'], stop_pull: ['Stop pull', '停止拉流'], from: ['From (URL)', '源地址'], to: ['To (URL)', '目标地址'], stream: ['Stream', '流'], begin: ['Begin', '开始'],
  keep: ['Keep after a restart', '重启后保留'], pulls: ['Pulls', '拉流'], pushes: ['Pushes', '推流'], none: ['Nothing here.', '暂无内容。'],
  sign_in: ['Sign in', '登录'], sign_out: ['Sign out', '退出'], token: ['Token', '令牌'],
  token_hint: ['The admin token is in the file "admin-token" of the node\'s data folder, and in its log at the first start.',
    '管理令牌在节点数据目录的 "admin-token" 文件里,首次启动时也会写入日志。'],
  wrong_token: ['This node does not know that token.', '本节点不认识该令牌。'], unreachable: ['This node does not answer. Trying again…', '节点无应答,正在重试…'],
  theme: ['Dark or light', '深色/浅色'], language: ['中文', 'English'], connecting: ['Connecting…', '连接中…'], retrying: ['Trying again in', '重试倒计时'],
  paused: ['Paused: not in sight', '已暂停:不可见'], empty_tile: ['Drag a stream here, or choose one', '将视频流拖到此处,或选择'], choose: ['Choose a stream', '选择视频流'],
  sound: ['Sound', '声音'], full: ['Full screen', '全屏'], shot: ['Screenshot', '截图'], record: ['Record', '录像'], recorded: ['The recording ended and is saved.', '录像已结束并保存。'], recording: ['Stop recording', '停止录像'],
  stats: ['Figures', '统计'], pip: ['Picture in picture', '画中画'], automatic: ['Automatic', '自动'], save_layout: ['Save wall', '保存布局'],
  saved: ['Saved walls', '已存布局'], wall_name: ['Name of this wall', '布局名称'], clear: ['Clear', '清空'], forget: ['Forget', '删除布局'], fill: ['Fill', '填满'], latency: ['Latency', '延迟'], dropped: ['Dropped', '丢弃'],
  codec: ['Codec', '编码'], path: ['Path', '路径'], direct: ['direct from the platform', '平台直连'], here: ['through this node', '经本节点'],
  'no-connection': ['WebRTC is not connected: is the port open by UDP or TCP?', 'WebRTC 未连通:请检查 UDP/TCP 端口。'],
  'no-socket': ['The connection was closed before anything came.', '连接未建立即被关闭。'], undecodable: ['This browser does not decode', '浏览器无法解码'],
  stream_gone: ['The stream is not there. It is looked for again.', '视频流不存在,正在重试。'], no_picture: ['It is connected, and no picture comes.', '已连接,但没有画面。'], stands: ['The picture stands still. Beginning anew.', '画面停滞,正在重新连接。'], never: ['never linked', '从未连接'],
  left_out: ['left out by a weak uplink', '弱网丢帧'], filter: ['Filter', '过滤'], actions: ['Actions', '操作'], sure: ['Really?', '确定?'],
  publish_how: ['Send a stream to this node', '向本节点推流'], link_how: ['Link a node below (behind NAT, on 4G)', '接入下级节点(NAT 后、4G)'],
  link_note: ['In the file of the lower node; then "culvert run -c FILE". It dials this node, and its streams are here as NAME-ID.',
    '写入下级节点的配置文件,然后运行 "culvert run -c 文件"。下级会主动连接本节点,其视频流以 名称-平台号 出现。'],
  obs: ['OBS: Settings, Stream, Custom', 'OBS:设置 → 直播 → 自定义'], camera: ['A camera (RTSP), fetched when somebody watches', '摄像机(RTSP),有人观看时才拉取'],
  token_made: ['With this token (it is shown here and nowhere else):', '使用此令牌(仅在此处显示):'], no_streams: ['No stream yet.', '暂无视频流。'],
  available: ['begins when watched', '待观看'], unknown: ['unknown', '未知'], lost: ['lost', '断开'], changed: ['changed', '变更'], peer: ['platform', '平台'],
  waiting: ['waiting', '等待中'], running: ['running', '运行中'], dialling: ['dialling', '拨号中'], stopped: ['stopped', '已停止'],
  relayed: ['fetched now', '正在中继'], jumps: ['jumps', '时间跳变'], more_by_search: ['There are more: search for them.', '还有更多,请搜索。'],
  cameras_down: ['Cameras that are down', '故障摄像机'], below: ['Platforms below', '下级平台'], rates: ['Down / up', '下行/上行'], m7s_limits: ['A node of m7s: it is called one request at a time, and its sessions, configuration and log are not known here.', 'm7s 节点:请求逐个处理,其会话、配置和日志在此不可见。'], no_peers: ['No platform is linked.', '暂无平台接入。'],
  links_made: ['links since the start', '启动以来连接次数'], events_live: ['News come as they happen', '实时更新'], not_allowed: ['This token may not see that.', '此令牌无权查看。'],
  make_token: ['Make a token', '生成令牌'], upper_file: ['In the file of this node (then restart it, or send it SIGHUP):', '写入本节点配置文件(然后重启或发送 SIGHUP):'],
  lower_file: ['In the file of the node below:', '写入下级节点配置文件:'], your_token: ['TOKEN stands for a token that may publish.', 'TOKEN 为具有推流权限的令牌。'],
  device_hint: ['Opens in a new tab. Where the node asks for a name and a password, the token is the password.', '在新标签页打开。若节点要求用户名和密码,密码填写令牌。'],
  all: ['All', '全部'], node: ['This node', '本节点'], menu: ['Menu', '菜单'], load_failed: ['Not loaded', '加载失败'], level: ['Level', '级别'], message: ['Message', '内容'], time: ['Time', '时间'],
} satisfies Record<string, [string, string]>;

export type Key = keyof typeof TEXT;
export const has = (key: string): key is Key => key in TEXT;
export const t = (key: Key): string => TEXT[key][language === 'zh' ? 1 : 0];
/** A word of the API, in this language where it is known. */
export const word = (text: string): string => has(text) ? t(text) : text;
