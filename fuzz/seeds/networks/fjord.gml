ÿ# made by hand
graph [
  DateObtained "01/01/30"
  Network "Fjord"
  directed 0
  node [
    id 0
    label "Troms&#248; &amp; N"
    Longitude 18.95
    Latitude 69.65
    graphics [ x 1 y 2 box [ ] ]
  ]
  node [ id 1 label "Bod&#xf8;" ]
  node [ id 5 label "Bod&#xf8;" ]
  node [ id 6 ]
  edge [ source 0 target 1 LinkSpeedRaw 10000000000.0 weight 2 ]
  edge [ source 0 target 1 LinkSpeedRaw 2.5E9 weight 7 ]
  edge [ source 1 target 5 LinkSpeed "155" LinkSpeedUnits "M" LinkLabel "STM-1" weight 7 ]
  edge [ source 5 target 6 LinkSpeedRaw 1000000000 weight 7 ]
  edge [ source 6 target 6 LinkSpeedRaw 1000000000 ]
]
