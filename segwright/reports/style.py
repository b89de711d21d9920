"""The style sheet that every page carries: light and dark, from a desktop to a phone and to paper."""

from __future__ import annotations

STYLE = """
:root{--page:#f6f6f4;--card:#fff;--ink:#16181d;--soft:#5b606b;--rule:#e3e3df;--accent:#2a78d6;--good:#16794a;
--warn:#9a6200;
--bad:#c0342f;--s0:#2a78d6;--s1:#d9622b;--s2:#1a9a6c;--s3:#7a52c7;--s4:#b58400;--track:#ecece8}
@media(prefers-color-scheme:dark){:root{--page:#121316;--card:#1b1d21;--ink:#ecedef;--soft:#a2a7b1;--rule:#303339;
--accent:#5b9df0;--good:#4cc38a;--warn:#e0aa3e;--bad:#f0736c;--s0:#5b9df0;--s1:#f0894f;--s2:#3dc091;--s3:#a98af0;
--s4:#dcb03c;
--track:#2b2e34}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 8px}
footer{max-width:1180px;margin:0 auto;padding:12px 20px 32px;color:var(--soft);font-size:13px}
header{margin-bottom:20px}
h1{font-size:28px;line-height:1.2;margin:2px 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:0 0 4px}
h3{font-size:14px;margin:0 0 10px;font-weight:600;overflow-wrap:anywhere}
p{margin:0 0 10px}
a{color:var(--accent)}
.kicker{color:var(--accent);font-weight:600;font-size:13px;margin:0}
.lead,.note,.small{color:var(--soft)}
.lead{margin:0 0 2px;overflow-wrap:anywhere}
.note{max-width:78ch;margin:0 0 14px}
.small{font-size:12.5px}
.good,.warn,.bad{border-left:4px solid var(--good);padding:8px 12px;background:var(--card);border-radius:0 8px 8px 0}
.warn{border-color:var(--warn)}.bad{border-color:var(--bad)}
section{margin:34px 0}
.card,.tile{background:var(--card);border:1px solid var(--rule);border-radius:12px}
.card{padding:16px;min-width:0}
.card+.card{margin-top:14px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr));gap:14px}
.grid .card+.card{margin-top:0}
.grid.wide{grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr))}
.card+.grid,.grid+.card{margin-top:14px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(124px,1fr));gap:12px}
.tile{padding:14px 16px}
.tile .label{color:var(--soft);font-size:13px}
.tile .value{font-size:24px;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.tile.hero{grid-column:span 2;border-left:5px solid var(--accent)}
.tile.hero .value{font-size:38px}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-size:14px}
th{font-weight:600;text-align:left;color:var(--soft);font-size:12.5px}
th,td{padding:6px 10px;border-bottom:1px solid var(--rule);white-space:nowrap;vertical-align:middle}
tbody tr:last-child td,tbody tr:last-child th{border-bottom:0}
.num{text-align:right;font-variant-numeric:tabular-nums}
.wrap{white-space:normal;min-width:16ch;display:inline-block;overflow-wrap:anywhere}
.swatch{display:inline-block;width:13px;height:13px;border-radius:3px;margin-right:8px;vertical-align:-1px;
box-shadow:inset 0 0 0 1px rgba(128,128,128,.45)}
.legend{list-style:none;margin:6px 0 12px;padding:0;display:flex;flex-wrap:wrap;gap:5px 16px;font-size:13px;
color:var(--soft)}
.key{display:inline-block;width:16px;height:3px;border-radius:2px;margin-right:7px;vertical-align:3px}
.bar{display:flex;align-items:center;gap:10px;min-width:150px}
.track{flex:1;height:12px;background:var(--track);border-radius:4px;overflow:hidden;min-width:80px}
.fill{display:block;height:100%;background:var(--accent);border-radius:0 4px 4px 0;
box-shadow:inset 0 0 0 1px rgba(128,128,128,.35)}
.barlabel{font-variant-numeric:tabular-nums;min-width:3.2em;text-align:right}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:11px;fill:var(--soft);font-family:inherit;font-variant-numeric:tabular-nums}
.rule{stroke:var(--rule);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
path.s0{stroke:var(--s0)}path.s1{stroke:var(--s1)}path.s2{stroke:var(--s2)}path.s3{stroke:var(--s3)}
path.s4{stroke:var(--s4)}
.dot{stroke:var(--card);stroke-width:1}
circle.s0,rect.s0{fill:var(--s0)}circle.s1{fill:var(--s1)}circle.s2{fill:var(--s2)}circle.s3{fill:var(--s3)}
circle.s4{fill:var(--s4)}
.key.s0{background:var(--s0)}.key.s1{background:var(--s1)}.key.s2{background:var(--s2)}.key.s3{background:var(--s3)}
.key.s4{background:var(--s4)}
.heatmap{width:auto;font-size:12px;border-collapse:separate;border-spacing:2px}
.heatmap th,.heatmap td{border:0;padding:0}
.heatmap td.heat{width:38px;min-width:30px;height:28px;text-align:center;border-radius:4px;
font-variant-numeric:tabular-nums;
background:color-mix(in srgb,var(--accent) var(--v),var(--track))}
.heatmap td.hot{color:#fff;font-weight:600}
.heatmap .side{padding-right:8px;text-align:right;position:sticky;left:0;background:var(--card);z-index:1}
.heatmap .corner{padding-right:8px;font-weight:400;font-size:11.5px;position:sticky;left:0;background:var(--card);
z-index:1;
vertical-align:bottom;text-align:right}
.heatmap .turn{height:92px;vertical-align:bottom;text-align:left}
.heatmap .turn span{display:block;width:30px;margin:0 auto;writing-mode:vertical-rl;transform:rotate(180deg);
max-height:110px;
overflow:hidden;text-overflow:ellipsis}
.columns{display:grid;grid-template-columns:minmax(0,max-content) minmax(280px,1fr);gap:14px;align-items:start}
.columns .card+.card{margin-top:0}
.strip{display:grid;grid-template-columns:repeat(4,1fr);gap:10px}
figure{margin:0;min-width:0}
figure img{display:block;width:100%;height:auto;border-radius:6px;background:var(--track)}
figcaption{font-size:12.5px;color:var(--soft);margin-top:4px}
pre{margin:0 0 12px;padding:12px 14px;background:var(--card);border:1px solid var(--rule);border-radius:10px;
overflow-x:auto;
font-size:13px}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
dl{display:grid;grid-template-columns:minmax(90px,max-content) 1fr;gap:4px 18px;margin:0;font-size:14px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
details{margin:10px 0}summary{cursor:pointer;color:var(--accent)}
@media(max-width:980px){.columns{grid-template-columns:minmax(0,1fr)}}
@media(max-width:640px){main{padding:18px 14px 4px}footer{padding:10px 14px 26px}h1{font-size:23px}
section{margin:26px 0}
.strip{grid-template-columns:1fr 1fr}.tiles{grid-template-columns:1fr 1fr}.card{padding:12px}.tile{padding:11px 12px}
.tile .value{font-size:21px}.tile.hero .value{font-size:34px}th,td{padding:6px 7px}.bar{min-width:118px;gap:7px}
.track{min-width:44px}.barlabel{min-width:2.6em}.scroll table{font-size:13px}.wrap{min-width:9ch}
.heatmap .corner{white-space:normal;max-width:80px}.heatmap .side{padding-right:5px}.heatmap td.heat{min-width:27px;
width:27px;height:25px;font-size:11px}
dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:8px}}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}}
"""
